"""Made-up Chinese reviews in which the order of the characters decides: 甲比乙好 is praise of 甲, 乙比甲好 is not.

    python examples/chinese_reviews.py reviews.csv --rows 4000
    recur train classify --train reviews.csv --text 评论 --label 评价 --cell rnn,lstm,gru \\
        --epochs 12 --learning-rate 0.003

Every sentence names this film (这部) and another one; negation (不, 并不) turns the judgement round.
"""

import csv
import itertools
import random
from pathlib import Path

from cyclopts import run

THIS = ["这部电影", "这部片子", "这部作品", "这一部"]
OTHER = ["上一部", "前一部作品", "原著", "那部老电影", "同期的大片"]
GOOD = ["好看", "精彩", "感人", "有趣", "深刻"]
BAD = ["无聊", "难看", "拖沓", "做作", "肤浅"]
MUCH = ["", "更", "要", "还要", "明显更"]
OPENING = ["", "说实话,", "看完之后觉得,", "朋友们都说,", "在我看来,", "坐了两个小时以后,"]
CLOSING = ["。", "!", ",仅此而已。", ",信不信由你。", ",音乐倒是一般。"]


def sentences() -> list[tuple[str, str]]:
    """Return every sentence with its label, 褒 for praise of this film and 贬 for the opposite."""
    result = []
    parts = itertools.product(OPENING, THIS, OTHER, MUCH, [*GOOD, *BAD], CLOSING, [False, True], ["", "不", "并不"])
    for opening, this, other, much, word, closing, swapped, negation in parts:
        if negation and much:
            continue
        first, second = (other, this) if swapped else (this, other)
        praise = (word in GOOD) ^ swapped ^ bool(negation)
        result.append((f"{opening}{first}{negation}比{second}{much}{word}{closing}", "褒" if praise else "贬"))
    return result


def main(file: Path, *, rows: int = 4000, seed: int = 1) -> None:
    """Write a CSV with the columns 评论 (review) and 评价 (judgement)."""
    chosen = random.Random(seed).sample(sentences(), rows)
    with open(file, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["评论", "评价"])
        writer.writerows(chosen)
    print(f"{rows} reviews in {file}")


if __name__ == "__main__":
    run(main)
