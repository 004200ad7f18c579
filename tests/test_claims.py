"""The claims that docs/vanishing.md lists hold as it says: each measurement asserts its verdict."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("claims", ROOT / "examples" / "claims.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["claims"] = module
    spec.loader.exec_module(module)
    return module


claims = script()
CHINESE = {claims.TRUE: "对", claims.CONDITIONAL: "有条件", claims.WRONG: "错"}


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: claim.key)
def test_each_claim_is_as_its_verdict_says(claim):
    assert claim.measure()


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: claim.key)
def test_both_pages_give_the_verdict(claim):
    english = (ROOT / "docs" / "vanishing.md").read_text(encoding="utf-8")
    row = f"| {claim.key} | {claim.says} | {claim.verdict} |"
    assert row in english.replace("\\|", "|").replace("\\*", "*")
    chinese = (ROOT / "docs" / "vanishing.zh.md").read_text(encoding="utf-8")
    row = next(line for line in chinese.replace("\\|", "").splitlines() if line.startswith(f"| {claim.key} |"))
    assert row.split("|")[3].strip() == CHINESE[claim.verdict]


def test_an_unknown_claim_is_named():
    with pytest.raises(SystemExit, match="there is no claim Z9; there are C1"):
        claims.main(["Z9"])
