"""Label vocabularies."""

import pytest

from qdr_edge.errors import DatasetError
from qdr_edge.labels import MMC_AMD, MULTIEYE, TOPCON_MM, LabelSet


def test_topcon_order_is_the_data_sets():
    assert " ".join(TOPCON_MM.codes) == "NOR AMD WAMD DR CSC PED MEM FLD EXU CNV RVO"


def test_encode_and_decode_round_trip():
    vector = TOPCON_MM.encode("DR; EXU")
    assert vector.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    assert TOPCON_MM.decode(vector) == "DR;EXU"


def test_unknown_label_names_place_and_nearest():
    with pytest.raises(DatasetError, match=r"data\.csv:7: unknown label 'wamd'.*did you mean WAMD"):
        TOPCON_MM.encode("wamd", where="data.csv:7")


@pytest.mark.parametrize("text", ["", " ; "])
def test_no_label_is_an_error(text):
    with pytest.raises(DatasetError, match="no label"):
        TOPCON_MM.encode(text)


@pytest.mark.parametrize("labels", [TOPCON_MM, MMC_AMD, MULTIEYE], ids=lambda labels: labels.name)
def test_named_sets_are_found_and_survive_json(labels):
    assert LabelSet.named(labels.name.lower()) == labels
    assert LabelSet.from_dict(labels.to_dict()) == labels
    assert labels.normal == 0


def test_double_code_is_an_error():
    with pytest.raises(DatasetError, match="twice"):
        LabelSet.custom(["A", "A"])


def test_the_single_label_sets_are_exclusive_and_say_so_in_json():
    assert (TOPCON_MM.exclusive, MMC_AMD.exclusive, MULTIEYE.exclusive) == (False, True, True)
    assert LabelSet.from_dict(MMC_AMD.to_dict()).exclusive
    before = {k: v for k, v in MMC_AMD.to_dict().items() if k != "exclusive"}
    assert not LabelSet.from_dict(before).exclusive


def test_two_labels_that_exclude_each_other_name_their_place():
    with pytest.raises(DatasetError, match=r"data\.csv:7: 2 labels, NOR;PCV; expected one"):
        MMC_AMD.encode("NOR;PCV", where="data.csv:7")
    assert MMC_AMD.encode("PCV").tolist() == [0, 0, 1, 0]
    with pytest.raises(DatasetError, match="two or more"):
        LabelSet.custom(["DR"], exclusive=True)
