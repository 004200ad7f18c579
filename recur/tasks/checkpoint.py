"""The state for resuming: one file, replaced as a whole, that holds no code."""

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recur.errors import RunError
from recur.files import write_atomic


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace `path` by `state`: tensors, numbers, strings, lists, tuples and dicts of them.

    Raises:
        RunError: the disk is full or the folder cannot be written; the checkpoint before is kept.
    """

    def write(beside: Path) -> None:
        try:
            with open(beside, "wb") as file:
                torch.save(state, file)
        except RuntimeError as error:
            # what the file said, a full disk say, torch's archive writer buries under an error of its own
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise OSError(None, f"{error}".splitlines()[0]) from error

    write_atomic(path, write, when_full="free some space, then carry on with --resume")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; nothing but data is ever loaded.

    Raises:
        RunError: the file is missing, damaged, or something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"{path} is missing: there is nothing to resume; start again with --overwrite") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError, KeyError) as error:
        raise RunError(f"{path} is damaged and cannot be resumed; start again with --overwrite") from error
    if not isinstance(state, dict) or state.get("format") != 1:
        raise RunError(f"{path} is not a checkpoint of recur; start again with --overwrite")
    return state


def seed_all(seed: int) -> None:
    """Seed the random number generators of torch, numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def random_state() -> dict[str, Any]:
    """Return the state of every random number generator."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Carry the random number generators on from `random_state`."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
