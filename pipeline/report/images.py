"""Images of rows as PNG within the page.

Small images are enlarged by a whole factor, nearest neighbour, so that each pixel stays what it was; large ones are
reduced to keep the page light.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import DataError

SMALL = 128  # px: images at most half as large are enlarged up to this
LARGE = 384  # px: longer sides are reduced to this


def factor(height: int, width: int) -> int:
    """By how much an image of this size is enlarged; 1 for one that is not small."""
    return max(1, SMALL // max(height, width))


def data_uri(image: Any) -> str:
    """An image as a `data:image/png;base64,` address.

    Args:
        image: [H, W] grey or [H, W, 3] colour, uint8.

    Raises:
        DataError: another shape or type.
    """
    picture = Image.fromarray(_checked(image))
    scale = factor(picture.height, picture.width)
    if scale > 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    picture.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def is_small(image: Any) -> bool:
    """Whether the browser should show single pixels rather than blur them."""
    height, width = np.shape(image)[:2]
    return factor(height, width) > 1


def _checked(image: Any) -> np.ndarray:
    array = np.asarray(image)
    grey, colour = array.ndim == 2, array.ndim == 3 and array.shape[-1] == 3
    if array.dtype != np.uint8 or not (grey or colour) or array.size == 0:
        raise DataError(
            f"expected an image [H, W] or [H, W, 3] of uint8, got {list(array.shape)} of {array.dtype}; "
            "mend `show` of the task"
        )
    return np.ascontiguousarray(array)
