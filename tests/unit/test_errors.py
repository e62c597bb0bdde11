"""Every error is one line, has its own exit code, and stands in the documented tree."""

import inspect

import pytest

from qdr_edge import errors

FAMILIES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.QdrError)
]


def test_exit_codes_are_unique_and_leave_room_for_usage_and_interrupt():
    codes = [cls.exit_code for cls in FAMILIES]
    assert len(set(codes)) == len(codes)
    assert not {0, 2, 130} & set(codes)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda cls: cls.__name__)
def test_tree_in_docstring_is_complete(family):
    line = next(line for line in errors.__doc__.splitlines() if f" {family.__name__} " in line)
    assert str(family.exit_code) in line.split()


def test_message_has_what_where_expected_and_fix_in_one_line():
    error = errors.ImageError("is\nempty", where="a.jpg", expected="an image", fix="copy it again")
    assert str(error) == "a.jpg: is empty; expected an image; copy it again"
