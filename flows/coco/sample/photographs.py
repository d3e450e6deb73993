"""Take the photographs that scikit-image carries inside its package, and annotate them by hand.

They are read from the installed package, never downloaded. Licences are those that scikit-image documents for each.
The motorcycle and the other pictures of the package are left out: their terms are not stated, or they show neither
people nor anything that people could stand in front of.
"""

from dataclasses import dataclass
from importlib.resources import files

import cv2
import numpy as np

from flows.coco.sample.noise import Array
from flows.coco.sample.scene import CUP, PERSON, Drawing, Instance

CAT = 17
CC0, NO_KNOWN_RESTRICTIONS = 9, 7  # licence ids; 7 is COCO's own

Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Photograph:
    """Specify one picture: the file in scikit-image, the part of it that is used, and what it shows."""

    image_id: int
    file_name: str
    columns: int  # used from the left; the pictures are square otherwise
    rows: int
    license_id: int
    flickr_url: str | None
    outlines: tuple[tuple[int, Outline], ...] = ()  # (category id, corners (x, y) in pixels of the file)
    grey: bool = False


ASTRONAUT: Outline = (
    (33, 512), (27, 497), (23, 469), (22, 436), (21, 403), (22.5, 375), (24.5, 342), (30.5, 319), (37.5, 295),
    (47, 272), (61, 253), (75, 239), (96, 225), (112, 211), (114, 204), (112.5, 188), (119, 181), (125.5, 169),
    (136, 158.5), (150, 152), (166.5, 148), (186, 149), (183, 136), (173.5, 129), (172, 120), (168, 118), (160, 106),
    (156, 95.5), (153.5, 77), (153.5, 65), (155, 58), (164, 50), (176, 42), (188, 35.5), (192, 28), (198, 22.5),
    (211, 18), (230, 15.5), (248.5, 18.5), (260, 21.5), (276.5, 30), (288, 42), (296, 54), (299.5, 68.5), (301.5, 85),
    (297, 103), (288, 119.5), (279, 129), (274, 135), (268, 136.5), (266, 149.5), (260, 161.5), (256, 171.5),
    (261.5, 176), (272, 183), (282.5, 194), (291.5, 206), (298.5, 219.5), (303.5, 233.5), (323.5, 248.5), (335, 260),
    (344.5, 279), (352.5, 300), (358.5, 319), (362, 335), (364.5, 348), (344.5, 354), (328, 363), (312, 377),
    (300, 391.5), (290.5, 408), (283.5, 426.5), (280, 445), (279, 469), (281, 492), (285, 512),
)  # fmt: skip
CAMERAMAN: Outline = (
    (0, 262.5), (11.5, 239), (21, 222.5), (33, 206), (44.5, 187.5), (56, 166), (70, 147.5), (89, 136), (112.5, 125.5),
    (130, 124), (136, 117), (147.5, 108), (161, 105.5), (164, 96), (173.5, 82), (187.5, 70.5), (201.5, 64.5), (220, 66.5),
    (239, 75), (255.5, 89), (268, 104), (271, 119.5), (267, 133.5), (255.5, 138), (253, 145), (253, 159), (254.5, 166),
    (251, 171), (243, 172.5), (246, 177), (243, 184), (240, 187.5), (240.5, 201.5), (246, 220), (248.5, 244), (262.5, 227),
    (269.5, 215.5), (283.5, 206), (300, 204), (307, 185), (321, 169), (330.5, 173.5), (332, 194.5), (323.5, 211),
    (309.5, 225), (297.5, 234.5), (286, 246), (300, 255.5), (304.5, 272), (281, 286), (262.5, 304.5), (246, 312),
    (225, 304), (206, 294.5), (187.5, 323.5), (164, 356), (142, 379), (147.5, 412.5), (151, 450), (151, 512), (139.5, 512),
    (129, 487.5), (112.5, 464), (99.5, 445.5), (96, 478), (90, 512), (0, 512),
)  # fmt: skip
CHELSEA: Outline = (
    (40, 0), (36, 20), (33, 50), (32, 80), (28, 105), (12, 122), (0, 130), (0, 300), (262, 300), (285, 285), (300, 272),
    (313, 258), (315, 232), (325, 210), (340, 192), (350, 172), (360, 150), (362, 120), (358, 100), (352, 84), (358, 72),
    (370, 50), (378, 28), (385, 14), (397, 0),
)  # fmt: skip
COFFEE_CUP: Outline = (
    (173, 105), (177, 85), (187, 65), (203, 47), (225, 32), (250, 22), (285, 18), (320, 22), (350, 33), (375, 50), (393, 70),
    (403, 95), (405, 115), (402, 140), (395, 170), (385, 200), (375, 220), (360, 238), (345, 245), (330, 265), (310, 280),
    (290, 285), (265, 283), (250, 275), (240, 268), (232, 290), (225, 305), (210, 305), (198, 290), (196, 275), (203, 255),
    (215, 240), (205, 228), (190, 205), (180, 175), (174, 140),
)  # fmt: skip


PHOTOGRAPHS = (
    Photograph(
        8094, "astronaut.png", 384, 512, NO_KNOWN_RESTRICTIONS, "https://flic.kr/p/r9qvLn", ((PERSON, ASTRONAUT),)
    ),
    Photograph(8231, "camera.png", 400, 512, CC0, None, ((PERSON, CAMERAMAN),), grey=True),
    Photograph(8368, "chelsea.png", 451, 300, CC0, None, ((CAT, CHELSEA),)),
    Photograph(8530, "coffee.png", 600, 400, CC0, None, ((CUP, COFFEE_CUP),)),
    Photograph(
        8642, "rocket.jpg", 640, 427, NO_KNOWN_RESTRICTIONS, "https://www.flickr.com/photos/spacexphotos/16511594820"
    ),
)


def read_photograph(photograph: Photograph) -> Drawing:
    """Read one photograph and draw the masks of its outlines.

    Raises:
    ------
    FileNotFoundError
        Where the installed scikit-image does not carry the file.
    """
    content = files("skimage").joinpath("data", photograph.file_name).read_bytes()
    flag = cv2.IMREAD_GRAYSCALE if photograph.grey else cv2.IMREAD_COLOR_RGB
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), flags=flag)
    if picture is None:
        raise ValueError(f"scikit-image's {photograph.file_name} is no picture that OpenCV can read")
    picture = np.ascontiguousarray(picture[: photograph.rows, : photograph.columns])
    return Drawing(
        picture, tuple(Instance(category, fill(outline, picture.shape)) for category, outline in photograph.outlines)
    )


def fill(outline: Outline, shape: tuple[int, ...]) -> Array:
    """Return the mask, bool (H, W), inside an outline of corners (x, y)."""
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(np.array(outline) * 16 - 8).astype(np.int32)], color=1, shift=4)
    return mask.astype(bool)
