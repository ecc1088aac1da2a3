"""Collapse in words: what a reading of the monitors says is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

LOW_STD = 0.1
LOW_RANK = 2.0
LOW_SHARE = 0.05
SAME = 1e-9
"""Relative distance below which two sets of weights or outputs are equal."""

REPRESENTATION = {"point", "line", "dimensional"}
"""Kinds of warning that say the representation has collapsed."""

MEASURES = {
    "std": "spread of the representation",
    "effective_rank": "directions that the representation uses",
    "rank_limit": "directions that the rows read could show",
    "rankme": "RankMe of the representation",
    "lidar": "LiDAR of the representation",
    "alpha_req": "exponent of the representation's eigenspectrum",
    "alignment": "mean squared distance of the two views",
    "uniformity": "log mean potential of pairs of samples",
    "projection_std": "spread of the projection",
    "projection_rank": "directions that the projection uses",
    "projection_rank_limit": "directions that the rows read could show",
    "projection_rankme": "RankMe of the projection",
    "projection_lidar": "LiDAR of the projection",
    "predictor_rank": "directions that the predictor passes on",
    "predictor_top": "largest gain of the predictor",
    "predictor_fit": "share of the predictions that a linear map explains",
    "predictor_distance": "relative distance of predictions from projections",
    "target_distance": "relative distance of online from target weights",
    "target_cosine": "mean cosine of online and target projections",
}
"""Name in `metrics.jsonl` -> what it is. A reading has those that the method has tensors for."""

_REMEDY = "Try a lower optim.base_lr, a larger batch, or with byol a larger options.tau_base."
_CAUSE = (
    "Check that the method compares predictions with targets that carry no gradient, and that its target is a slow "
    "copy (with byol options.tau_base of 0.99 or more)."
)


def collapse_warnings(reading: Mapping[str, float | None]) -> dict[str, str]:
    """What is wrong, kind -> a sentence or two for the user; empty while all is well.

    Kinds: `point` (all images alike), `line` (fewer than 2 directions), `dimensional` (under a twentieth of the
    directions that the rows could show; only where there are projections, since labels pull classes together on
    purpose), `projection` (collapsed, while the representation is not), `no_predictor` (the target equals the online
    network and nothing stands between them). Of the first three only the worst is told.

    Args:
        reading: Values by their names in `MEASURES`; what is missing is not judged.
    """
    found = _representation(reading)
    if not found and (words := _projection(reading)):
        found["projection"] = words
    apart = reading.get("predictor_distance")
    if _below(reading, "target_distance", SAME) and (apart is None or apart < SAME):
        found["no_predictor"] = (
            "the target network equals the online one and there is no predictor: equal outputs for all images are the "
            f"easiest way to a low loss. {_CAUSE}"
        )
    return found


def _representation(reading: Mapping[str, float | None]) -> dict[str, str]:
    if _below(reading, "std", LOW_STD):
        return {"point": (
            f"the representation is collapsing to a point: its spread is {reading['std']:.3f} of an even one (healthy: "
            f"above {LOW_STD}). Images are becoming indistinguishable. {_REMEDY}"
        )}
    if _below(reading, "effective_rank", LOW_RANK):
        return {"line": (
            f"the representation has collapsed to a line: it uses {reading['effective_rank']:.1f} directions (healthy: "
            f"above {LOW_RANK:.0f}). {_REMEDY}"
        )}
    limit = reading.get("rank_limit")
    if limit is not None and "projection_std" in reading and _below(reading, "effective_rank", LOW_SHARE * limit):
        return {"dimensional": (
            f"dimensional collapse: the representation uses {reading['effective_rank']:.1f} of the {limit:.0f} "
            f"directions that the rows read could show (healthy: above {LOW_SHARE:.0%}). Images differ, but in few "
            f"ways. {_REMEDY} Stronger views help too."
        )}
    return {}


def _projection(reading: Mapping[str, float | None]) -> str:
    if _below(reading, "projection_std", LOW_STD):
        what = f"to a point (spread {reading['projection_std']:.3f} of an even one, healthy: above {LOW_STD})"
    elif _below(reading, "projection_rank", LOW_RANK):
        what = f"to a line ({reading['projection_rank']:.1f} directions, healthy: above {LOW_RANK:.0f})"
    else:
        return ""
    return (
        f"the projection has collapsed {what}, the representation has not yet: the projector alone meets the loss, and "
        f"the encoder learns nothing from it. {_CAUSE} {_REMEDY}"
    )


def _below(reading: Mapping[str, float | None], name: str, threshold: float) -> bool:
    value = reading.get(name)
    return value is not None and value < threshold
