"""Class tables: which class of a schema each label of a foreign teacher is."""

import pickle
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.class_names import clean, guess, key, near
from storage.class_table import SHOWN, ClassTable, match_classes, propose, table_text
from storage.errors import SchemaError, SettingsError
from storage.model_labels import bit_colour
from storage.schema import ClassSchema, builtin_schemas, load_schema, schema_of_labels

# "Ab" and "a-b" have one key, and synonyms of one list are names of the other
NAMES = st.text("aAb, -_(ß\n", max_size=6) | st.sampled_from(["sky", "road, route", "route", "street", "LABEL_0"])
LABELS = st.lists(NAMES, min_size=1, max_size=8)

# as detectron2 names ADE20K, and with it Mask2Former and OneFormer, where it differs from the data set's first names
OTHER_ADE20K = {
    "road": "road, route",
    "windowpane": "window ",
    "bathtub": "tub",
    "railing": "rail",
    "streetlight": "street lamp",
    "television receiver": "tv",
    "airplane": "plane",
    "apparel": "clothes",
    "swimming pool": "pool",
    "waterfall": "falls",
    "ashcan": "trash can",
    "blind": "blind, screen",
    "buffet": "buffet, counter, sideboard",
    "toilet": "toilet, can, commode, crapper, pot, potty, stool, throne",
}


@pytest.fixture
def cityscapes() -> ClassSchema:
    """The 19 classes."""
    return load_schema("cityscapes")


@pytest.mark.parametrize("name", builtin_schemas())
def test_a_schema_s_own_names_are_its_classes(name: str) -> None:
    """Every built-in schema is mapped to itself, in order, whatever the case and punctuation of the labels."""
    schema = load_schema(name)
    same = tuple(range(len(schema)))
    assert match_classes(schema.names, schema).targets == same
    assert match_classes([n.upper().replace(" ", "_") for n in schema.names], schema).targets == same


@given(LABELS)
def test_labels_are_the_classes_of_their_own_schema(labels: list[str]) -> None:
    """A teacher without a schema gets one to which its labels are mapped one to one."""
    schema = schema_of_labels(labels, "own")
    assert match_classes(labels, schema).targets == tuple(range(len(labels)))
    assert ClassSchema.from_dict(schema.to_dict(), "again") == schema


@given(st.data())
def test_the_order_of_labels_does_not_matter(data: st.DataObject) -> None:
    """Labels that come in another order are the same classes."""
    schema = schema_of_labels(data.draw(LABELS), "own")
    labels = data.draw(st.lists(NAMES.filter(clean), min_size=1, max_size=8, unique_by=key))
    order = data.draw(st.permutations(range(len(labels))))
    before, after = propose(labels, schema), propose([labels[i] for i in order], schema)
    assert [list(before.values())[i] for i in order] == list(after.values())


@given(LABELS, LABELS)
def test_a_written_table_says_what_was_proposed(labels: list[str], classes: list[str]) -> None:
    """The text is TOML, and as a table for `match_classes` gives each label the class that was proposed."""
    schema = schema_of_labels(classes, "own\nschema")
    table = tomllib.loads(table_text(labels, schema))["classes"]
    proposed = propose(labels, schema)
    assert table == {label: name or "" for label, name in proposed.items()}
    if any(proposed.values()):
        names = [None if i is None else schema.names[i] for i in match_classes(labels, schema, table).targets]
        assert names == list(proposed.values())
    else:
        with pytest.raises(SettingsError, match="the class table makes no label any class of"):
            match_classes(labels, schema, table)


def test_models_of_ade20k_have_its_indices() -> None:
    """Their labels are 150 without "other", so index 0 is wall, by whichever of the usual names they call them."""
    schema = load_schema("ade20k")
    first = list(schema.names)  # SegFormer
    all_names = [", ".join((info.name, *info.synonyms)) for info in schema.classes]  # UperNet, BEiT
    other = [OTHER_ADE20K.get(name, name) for name in schema.names]
    for labels in (first, all_names, other):
        table = match_classes(labels, schema)
        assert table.targets == tuple(range(150))
        assert table.unmapped == table.absent == ()


def test_labels_match_by_name_or_synonym(cityscapes: ClassSchema) -> None:
    """What is no class is shown, and so is the class that no label is; nothing is guessed."""
    table = match_classes(["Traffic-Light", "car, auto", "pavement, sidewalk", "tree", "road"], cityscapes)
    assert [None if i is None else cityscapes.names[i] for i in table.targets] == [
        "traffic light",
        "car",
        "sidewalk",
        None,
        "road",
    ]
    assert table.unmapped == ("tree",)
    assert len(table.absent) == 15
    assert "vegetation" in table.absent


def test_a_synonym_stands_back_behind_the_name_and_where_it_is_doubtful() -> None:
    """A label is no counter where another is just that, and no ground where two classes are also called so."""
    schema = load_schema("ade20k")
    indoor = schema_of_labels(["counter", "sky"], "indoor")
    assert match_classes(["buffet, counter", "counter"], indoor).targets == (None, 0)
    assert match_classes(["buffet, counter", "sky"], indoor).targets == (0, 1)
    assert match_classes(["ground", "sky"], schema).targets == (None, 2)


def test_a_table_says_what_each_label_is(cityscapes: ClassSchema) -> None:
    """Several labels may be one class, "" and None are none on purpose, and a very name needs no entry."""
    labels = ["plant", "tree", "bed", "road", "sky"]
    table = match_classes(
        labels, cityscapes, {"plant": "vegetation", "tree": "vegetation", "bed": "", "sky": None, " tree ": "terrain"}
    )
    assert table.targets == (8, 9, None, 0, None)
    assert table.unmapped == ("bed", "sky")
    assert table.labels == tuple(labels)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"Tree": "vegetation"}, "no label of the teacher:\n'Tree'; is 'tree, palm' meant"),
        (
            {"tree, palm": "vegetations"},
            "no class of 'cityscapes':\n'tree, palm': 'vegetations'; is 'vegetation' m",
        ),
        ({"tree, palm": 8}, "no class of 'cityscapes':\n'tree, palm': '8'"),
        ({"tree, palm": ["sky"]}, "no class of 'cityscapes'"),
        ({"bed": ""}, '1 of the teacher\'s 3 labels. Say what each is; "" is no class:\n"tree, palm" = "vegetation"'),
        ({"tree, palm": "", "bed": "", "road": ""}, "makes no label any class"),
    ],
)
def test_a_wrong_table_is_refused_with_proposals(cityscapes: ClassSchema, table: dict[str, str], says: str) -> None:
    """What is unknown or left out is named, with what was likely meant."""
    with pytest.raises(SettingsError) as caught:
        match_classes(["tree, palm", "bed", "road"], cityscapes, table)
    assert says in str(caught.value)


def test_labels_of_other_things_are_refused_with_lines_to_edit(cityscapes: ClassSchema) -> None:
    """Without any match the lines of a table are proposed, the promising first, and not more than can be read."""
    labels = [f"thing {i}" for i in range(40)] + ["pedestrian"]
    with pytest.raises(SettingsError, match="none of the teacher's 41 labels") as caught:
        match_classes(labels, cityscapes)
    lines = str(caught.value).splitlines()
    assert lines[1] == 'pedestrian = "person"'
    assert lines[-1] == "... and 29 more"
    assert len(lines) == SHOWN + 2
    with pytest.raises(SettingsError, match="has no labels"):
        match_classes([], cityscapes)


@pytest.mark.parametrize("labels", [["x" * 1000, "sky"], [str(i) for i in range(5000)]])
def test_what_is_no_list_of_names_is_refused(cityscapes: ClassSchema, labels: list[str]) -> None:
    """Texts instead of names, or more of them than any teacher has, are no labels."""
    with pytest.raises(SettingsError, match="are these names") as caught:
        match_classes(labels, cityscapes)
    assert len(str(caught.value)) < 200


def test_numbered_labels_are_told(cityscapes: ClassSchema) -> None:
    """A teacher whose labels nobody named is refused for that reason, and taken with a table."""
    labels = [f"LABEL_{i}" for i in range(2)]
    with pytest.raises(SettingsError, match=r"only numbered \(LABEL_0, ...\)"):
        match_classes(labels, cityscapes)
    assert match_classes(labels, cityscapes, {"LABEL_0": "sky", "LABEL_1": "road"}).targets == (10, 0)


@pytest.mark.parametrize(
    ("label", "meant"),
    [
        ("Pedestrian", "person"),
        ("motorbike", "motorcycle"),
        ("minibike, motorbike", "motorcycle"),
        ("Traffic Sign (Front)", "traffic sign"),
        ("Traffic Light - Pedestrians", "traffic light"),
        ("Lane Marking - General", "road"),
        ("building-other-merged", "building"),
        ("tree", "vegetation"),
        ("bicyle", "bicycle"),
        ("On Rails", "train"),
        ("river", None),
        ("poster, bill, card", None),
        ("!", None),
    ],
)
def test_guesses_know_what_data_sets_call_things(cityscapes: ClassSchema, label: str, meant: str | None) -> None:
    """Well-known synonyms, names that are narrowed and slips of the pen are guessed; other things are not."""
    assert propose([label], cityscapes) == {label: meant}
    assert match_classes([label, "sky"], cityscapes).targets == (None, 10)


def test_a_guess_takes_the_whole_before_its_parts() -> None:
    """A rider of Cityscapes is the first rider that Mapillary tells apart."""
    names = load_schema("mapillary").names
    assert [names[i] for i in guess(["rider"], names) if i is not None] == ["Bicyclist"]


def test_guesses_in_the_text_are_marked(cityscapes: ClassSchema) -> None:
    """A class by name has no comment, a guess has, and classes that nothing is are listed."""
    lines = table_text(["road", "tree", "bed"], cityscapes).splitlines()
    assert lines[-4:-1] == ['road = "road"', 'tree = "vegetation"  # a guess', 'bed = ""']
    assert lines[-1].startswith("# Never predicted, as no label is one: sidewalk, building")


def test_names_of_own_labels_are_short_unique_and_clear() -> None:
    """Synonyms are cut off where the first name is enough; empty and repeated names get their position."""
    schema = schema_of_labels(["car, auto", "pot", "pot, jar", "", "pot", "a\x00b"], "own")
    assert schema.names == ("car", "pot", "pot, jar", "unnamed 3", "pot (label 4)", "a b")
    assert schema.classes[0].synonyms == ("auto",)
    assert [info.color for info in schema.classes] == [bit_colour(i) for i in range(1, 7)]
    assert [info.source_ids for info in schema.classes] == [(i,) for i in range(6)]
    with pytest.raises(SchemaError, match="1 to 255"):
        schema_of_labels([str(i) for i in range(256)], "own")


def test_colours_by_bits_are_all_different() -> None:
    """No two of the 256 are alike, and the first is black."""
    assert len({bit_colour(i) for i in range(256)}) == 256
    assert bit_colour(0) == (0, 0, 0)


def test_near_names_are_found_by_any_synonym() -> None:
    """A name is told by the list's own words, each once."""
    assert near("Roads", ["road, route", "sky"]) == ["road, route"]
    assert near("zebra", ["road", "sky"]) == []


def test_a_table_can_be_sent_to_workers() -> None:
    """It survives pickling, and labels without names are told by their numbers."""
    table = ClassTable((0, None, 1))
    assert pickle.loads(pickle.dumps(table)) == table  # noqa: S301 - our own bytes
    assert table.unmapped == ("1",)
