"""FreqAI's usual feature pipeline as plain numbers: which features are kept, and their scale.

FreqAI keeps a fitted pipeline as a pickle. Its usual two steps, which drop constant features and
scale the others to [-1, 1] (freqtrade 2026.9, ``define_data_pipeline``), are a mask and six arrays;
a pipeline that is made of them again gives the same bits. Other steps are not written like this:
whoever has them (PCA, noise, steps of one's own) gets None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from datasieve.pipeline import Pipeline
from datasieve.transforms import SKLearnWrapper, VarianceThreshold
from numpy.typing import NDArray
from pandas import Index
from sklearn.preprocessing import MinMaxScaler

from mtf_scalper.errors import SettingsError
from mtf_scalper.ppo.model_files import SCALING_FORMAT

_RANGE: Final = (-1, 1)
_ARRAYS: Final = ("min_", "scale_", "data_min_", "data_max_", "data_range_")
_DTYPES: Final = ("<f4", "<f8")


def plain_scaling(pipeline: Pipeline) -> dict[str, Any] | None:
    """Return a fitted pipeline as what JSON can hold, None where it has other steps."""
    steps = [step for _, step in pipeline.steps]
    if not steps:
        return {"format": SCALING_FORMAT, "steps": 0}
    if [type(step) for step in steps] != [VarianceThreshold, SKLearnWrapper]:
        return None
    const, wrapper = steps
    scaler = wrapper._skl
    is_usual = type(scaler) is MinMaxScaler and tuple(scaler.feature_range) == _RANGE
    if not is_usual or scaler.clip or not pipeline.pandas_types or any(pipeline.fitparams.values()):
        return None
    arrays = {name: np.asarray(getattr(scaler, name)) for name in _ARRAYS}
    if any(each.dtype.str not in _DTYPES for each in arrays.values()):
        return None
    return {
        "format": SCALING_FORMAT,
        "steps": len(steps),
        "names": [name for name, _ in pipeline.steps],
        "features": list(pipeline.features_in),
        "labels": list(pipeline.label_list),
        "kept": [bool(each) for each in const.mask],
        "n_rows": int(scaler.n_samples_seen_),
        "dtypes": {name: each.dtype.str for name, each in arrays.items()},
        # A float's shortest decimals are read as the same bits.
        "arrays": {name: each.tolist() for name, each in arrays.items()},
    }


def pipeline_of(scaling: Mapping[str, Any]) -> Pipeline:
    """Return the pipeline that ``plain_scaling`` was given.

    Raises
    ------
    SettingsError
        If the numbers are damaged.
    """
    try:
        return _pipeline_of(scaling)
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"the scaling of the features is damaged ({error})") from None


def _pipeline_of(scaling: Mapping[str, Any]) -> Pipeline:
    if scaling["format"] != SCALING_FORMAT:
        raise ValueError(f"format {scaling['format']!r}")
    if scaling["steps"] == 0:
        return Pipeline([], {})
    features = [str(each) for each in scaling["features"]]
    mask: NDArray[np.bool_] = np.array(scaling["kept"], dtype=np.bool_)
    scaler = MinMaxScaler(feature_range=_RANGE)
    for name in _ARRAYS:
        dtype = str(scaling["dtypes"][name])
        if dtype not in _DTYPES:
            raise ValueError(f"dtype {dtype!r}")
        setattr(scaler, name, np.array(scaling["arrays"][name], dtype=dtype))
    n_kept = int(mask.sum())
    if mask.shape != (len(features),) or any(
        getattr(scaler, name).shape != (n_kept,) for name in _ARRAYS
    ):
        raise ValueError("its lengths differ")
    scaler.n_samples_seen_ = int(scaling["n_rows"])
    scaler.n_features_in_ = n_kept
    const = VarianceThreshold(threshold=0)
    const.mask = mask
    const.feature_list = np.array(features)[mask]
    names = [str(each) for each in scaling["names"]]
    if len(names) != 2:
        raise ValueError("it has other steps")
    pipeline = Pipeline(list(zip(names, (const, SKLearnWrapper(scaler)), strict=True)), {})
    pipeline.pandas_types = True
    pipeline.features_in = Index(features)
    pipeline.feature_list = Index(features)
    pipeline.label_list = Index([str(each) for each in scaling["labels"]])
    return pipeline
