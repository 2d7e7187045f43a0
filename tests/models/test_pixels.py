"""What a model is asked with: taken where there is no doubt about the pixels, refused in one sentence elsewhere."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cleanlabel.models.pixels import as_pixels
from cleanlabel.sanitize.errors import InputError

GREY, COLOUR = (8, 6, 1), (8, 6, 3)
generator = np.random.default_rng(0)
grey = generator.integers(0, 256, (5, 8, 6), dtype=np.uint8)
colour = generator.integers(0, 256, (5, *COLOUR), dtype=np.uint8)
TAKES_GREY = r"; this model takes images of shape \(n, 8, 6\) or \(n, 8, 6, 1\), whole numbers 0\.\.255 \(uint8\)"
TAKES_COLOUR = r"; this model takes images of shape \(n, 8, 6, 3\), whole numbers 0\.\.255 \(uint8\)"


@pytest.mark.parametrize(
    "images",
    [
        grey,
        grey[..., None],
        np.asfortranarray(grey),
        grey.astype(np.int32),
        grey.astype(np.int64),
        grey.astype(np.float32),
        grey.astype(np.float64),
        list(grey),
        tuple(grey[..., None]),
        grey.tolist(),
        grey.astype(float).tolist(),
        torch.from_numpy(grey),
        list(torch.from_numpy(grey)),
        [Image.fromarray(image) for image in grey],
        [Image.fromarray(grey[0]), *grey[1:]],
    ],
)
def test_grey_images_in_many_forms_are_the_same_pixels(images):
    pixels = as_pixels(images, GREY)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, grey[..., None])


@pytest.mark.parametrize(
    "images",
    [
        colour,
        colour.astype(np.float32),
        list(colour),
        colour.tolist(),
        torch.from_numpy(colour),
        [Image.fromarray(image) for image in colour],
    ],
)
def test_colour_images_in_many_forms_are_the_same_pixels(images):
    np.testing.assert_array_equal(as_pixels(images, COLOUR), colour)


def test_pixels_that_are_uint8_are_not_judged_by_their_values():
    assert as_pixels(np.ones((2, 8, 6), np.uint8), GREY).max() == 1
    assert as_pixels(np.zeros((2, 8, 6), np.int64).tolist(), GREY).max() == 0  # black in any unit
    assert as_pixels(np.zeros((0, 8, 6), np.uint8), GREY).shape == (0, 8, 6, 1)


def changed(value: object) -> list:
    images = grey[:2].tolist()
    images[1][3][2] = value
    return images


@pytest.mark.parametrize(
    ("images", "what", "way_out"),
    [
        (grey / 255, r"the images hold 0\.\d+, which is not a whole number", r"; multiply images in \[0,1\] by 255"),
        ((grey / 255).astype(np.float32), ".*which is not a whole number", r"; multiply images in \[0,1\] by 255"),
        (torch.from_numpy(grey) / 255, ".*which is not a whole number", r"; multiply images in \[0,1\] by 255"),
        ((grey > 99) * 1.0, r"the largest pixel is 1, so the images may be in \[0,1\]", "; multiply .* or give uint8"),
        ((grey > 99).astype(int).tolist(), "the largest pixel is 1", "; multiply"),
        (np.zeros((2, 8, 6)), "the largest pixel is 0, so", "; multiply"),  # mid-grey, were they in [-1,1]
        (changed(12.7), "the images hold 12.7, which is not a whole number", "; multiply"),
        (changed(256), "the images hold 256, which is outside", ""),
        (changed(-1), "the images hold -1, which is outside", ""),
        (changed(10**40), "the images hold a number outside", ""),
        (changed(float("nan")), "the images hold NaN or infinity", ""),
        (changed(float("inf")), "the images hold NaN or infinity", ""),
        (changed(None), "the images hold null instead of a number", ""),
        (changed(True), "the images hold true or false instead of a number", ""),
        (changed("7"), "the images hold text instead of a number", ""),
        (changed({}), "the images hold a dict instead of a number", ""),
        (changed([7]), "the images are lists of different lengths", ""),
        ([*grey[:2].tolist(), grey[2, :5].tolist()], "the images are lists of different lengths", ""),
        ([grey[0], grey[1, :5]], r"image 0 is uint8 of shape \(8, 6\) and image 1 is uint8 of shape \(5, 6\)", ""),
        ([grey[0], grey[1] / 255], r"image 0 is uint8 .* and image 1 is float64", ""),
        ([grey[0], grey[1].tolist()], "the images are a list of arrays and of lists", "; give one kind"),
        (grey > 99, "the images are bool", ""),
        (grey.astype(np.uint16), "the images are uint16", ""),  # as likely the dark end of 0..65535
        (grey.astype(np.float16), "the images are float16", ""),
        (grey.astype(str), "the images are <U", ""),
        (grey.astype(object), "the images are object", ""),
        (np.ma.masked_equal(grey, 0), "the images are a masked array", "; give one without a mask"),
        (torch.from_numpy(grey).bfloat16(), "the images are a tensor of torch.bfloat16", "; give a uint8 one"),
        (pd.DataFrame(grey.reshape(5, -1)), "the images are a DataFrame", "; give an array or nested lists"),
        ({"images": grey}, "the images are a dict", "; give an array or nested lists"),
        (None, "the images are a NoneType", "; give an array or nested lists"),
        ("iVBORw0KGgo=", "the images are text", "; decode a PNG or base64"),
        (["iVBORw0KGgo="], "the images hold text instead of a number", ""),
        ([], "there are no images", ""),
        ([[]], r"the images have the shape \(1, 0\)", ""),
        (np.uint8(3), r"the images are a uint8", "; give an array"),
        (np.array(3, np.uint8), r"the images have the shape \(\)", ""),
        (grey[0], r"one image of shape \(8, 6\) has no batch axis", "; put it in a list of one image"),
        (grey[0, ..., None], r"one image of shape \(8, 6, 1\) has no batch axis", "; put it in a list"),
        (Image.fromarray(grey[0]), r"one image of shape \(8, 6\) has no batch axis", "; put it in a list"),
        (grey[:, None], r"the images have the shape \(5, 1, 8, 6\), channels first", r"; give images\.transpose"),
        (grey[:, :7], r"the images have the shape \(5, 7, 6\)", ""),
        (colour, r"the images have the shape \(5, 8, 6, 3\)", ""),
        ([Image.fromarray(colour[0])], "a picture has the mode RGB", r'; give image\.convert\("L"\)'),
    ],
)
def test_what_leaves_a_doubt_is_refused_in_one_sentence(images, what, way_out):
    with pytest.raises(InputError, match=f"^{what}.*{TAKES_GREY}{way_out}") as refusal:
        as_pixels(images, GREY)
    assert len(str(refusal.value)) < 250


@pytest.mark.parametrize(
    ("images", "what", "way_out"),
    [
        (colour.transpose(0, 3, 1, 2), r"the images have the shape \(5, 3, 8, 6\), channels first", "; give images.tr"),
        (torch.from_numpy(colour).permute(0, 3, 1, 2), "the images have the shape .*, channels first", "; give images"),
        (colour[0], r"one image of shape \(8, 6, 3\) has no batch axis", "; put it in a list of one image"),
        (colour[0].transpose(2, 0, 1), r"one image of shape \(3, 8, 6\) has no batch axis", "; put it in a list"),
        (np.concatenate([colour, colour[..., :1]], axis=3), ".*with an alpha channel", "; drop that channel"),
        ([Image.fromarray(colour[0]).convert("RGBA")], "a picture has the mode RGBA", '; give image.convert."RGB"'),
        ([Image.fromarray(colour[0]).convert("P")], "a picture has the mode P", '; give image.convert."RGB"'),
        ([Image.fromarray(grey[0])], "a picture has the mode L", '; give image.convert."RGB"'),
        (grey, r"the images have the shape \(5, 8, 6\)", ""),
    ],
)
def test_colour_images_that_leave_a_doubt_are_refused_in_one_sentence(images, what, way_out):
    with pytest.raises(InputError, match=f"^{what}.*{TAKES_COLOUR}{way_out}"):
        as_pixels(images, COLOUR)


def jpeg(**options: object) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(colour[0]).save(file, "JPEG", **options)
    file.seek(0)
    return file


def test_a_picture_on_its_side_or_cut_short_is_refused():
    exif = Image.Exif()
    exif[0x0112] = 3
    with pytest.raises(InputError, match=r"on its side by its EXIF orientation; .*; give ImageOps\.exif_transpose"):
        as_pixels([Image.open(jpeg(exif=exif))], COLOUR)
    whole = jpeg().getvalue()
    with pytest.raises(InputError, match="a picture cannot be read"):
        as_pixels([Image.open(io.BytesIO(whole[: len(whole) - 40]))], COLOUR)


numbers = st.sampled_from([0, 1, 2, 12, 255]) | st.integers() | st.floats()
json_values = st.recursive(
    st.none() | st.booleans() | st.text(max_size=3) | numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=20,
)
grids = st.lists(st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=1), min_size=1, max_size=3)


@given(json_values | grids)
def test_whatever_json_has_is_taken_number_for_number_or_refused(value):
    try:
        taken = as_pixels(value, (1, 2, 1)).reshape(np.shape(value)).tolist()
    except InputError:
        return
    assert taken == value
