"""The shell of hcoco: flows, sources, stores and views around the pure packages `augment` and `realism`."""

import os

# OpenCV reads this once, when it is loaded: a header of a few bytes may claim gigabytes.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "100000000")
