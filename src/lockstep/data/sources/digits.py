"""The handwritten digits that come with scikit-learn: 1,797 images of 8x8 pixels."""

import hashlib

import numpy as np
from sklearn.datasets import load_digits

from lockstep.data.sources.base import ArrayRows, Part, Request, Source, SourceFile

_WHITE = 16


def load(request: Request) -> Source:
    """Return the digits, yet to be split.

    Parameters
    ----------
    request : Request
        Its options don't apply here.

    Returns
    -------
    Source
        uint8, 0 to 16. The "files" are the bytes of the two arrays.
    """
    bunch = load_digits()
    x = bunch.images.astype(np.uint8)
    labels = bunch.target.astype("<i4")
    return Source(
        name=request.path.name,
        files=[
            SourceFile(name, hashlib.sha256(array.tobytes()).hexdigest())
            for name, array in (("images", x), ("labels", labels))
        ],
        class_names=tuple(map(str, bunch.target_names.tolist())),
        feature_shape=x.shape[1:],
        dtype=x.dtype,
        parts={"all": Part(ArrayRows(x), labels.astype(np.int32))},
        scale=1 / _WHITE,
        image_form="digit",
    )
