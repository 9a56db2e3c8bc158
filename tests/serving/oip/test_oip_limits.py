"""Limits that make no sense are refused."""

import pytest

from onstream.errors import JobError
from onstream.serving.oip.limits import Limits


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_rows": 0},
        {"max_inputs": -1},
        {"max_body_bytes": 0},
        {"max_body_bytes": 2**31},
        {"timeout_s": 0.0},
        {"timeout_s": float("inf")},
        {"timeout_s": float("nan")},
    ],
)
def test_limits_out_of_range_are_refused(wrong):
    with pytest.raises(JobError, match=next(iter(wrong))):
        Limits(**wrong)
