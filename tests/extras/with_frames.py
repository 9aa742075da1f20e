"""Frames, parquet files and calibrated probabilities of a model that is in memory."""

from __future__ import annotations

import sys

import tiny

from bess_jax._optional import MissingExtraError

predictor = tiny.predictor()
try:
    answers = predictor.top_k(head=["e1", "e2"], relation="likes", k=3, probability="platt").frame()
    assert list(answers["place"]) == [1, 2, 3] * 2, answers
    assert len(predictor.ranks("test").frame()) == 60
    predictor.top_k(head="e1", relation="likes", k=3, probability="isotonic")
    from pathlib import Path

    from bess_jax.predict.writer import check_target

    check_target(Path("answers.parquet"))
except MissingExtraError as error:
    sys.exit(str(error))
