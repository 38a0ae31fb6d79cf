"""Persons and places in the shipped Bible, labelled by a list of names, to try token classification on.

The labels are silver: a list gives every name one type, and no person has checked the verses. A look-up in
that list is right everywhere. So a fifth of the names is held out: training never sees them, and their scores
measure what a model learned about names in general.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from zlib import crc32

from ..extras import extra

with extra("train"):
    from datasets import ClassLabel, Dataset, Features, List, Value

from . import load_corpus

BIBLE_NAMES = "bible-names"  # the `dataset` of a recipe
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]

# A tribe has the label of the person it is named after; Israel and Judah are places.
NAMES = {
    "PER": """
    Aaron Abednego Abel Abiathar Abigail Abihu Abijah Abimelech Abinadab Abiram Abishai Abner Abraham
    Abram Absalom Achish Adam Adonijah Agag Agrippa Ahab Ahasuerus Ahaz Ahaziah Ahijah Ahikam Ahimaaz
    Ahimelech Ahithophel Ahitub Amasa Amaziah Amminadab Amnon Amon Amoz Ananias Andrew Apollos Artaxerxes
    Asa Asahel Asaph Asher Athaliah Azariah Baasha Balaam Balak Barabbas Barak Barnabas Baruch Barzillai
    Bathsheba Belshazzar Belteshazzar Benaiah Benhadad Benjamin Bezalel Bilhah Boaz Caesar Caiaphas Cain
    Caleb Cornelius Cyrus Dan Daniel Darius Dathan David Deborah Dinah Eleazar Eli Eliab Eliakim Eliashib
    Eliezer Elihu Elijah Eliphaz Elisha Elizabeth Elkanah Enoch Ephraim Ephron Esau Esther Ezekiel Ezra
    Felix Festus Gad Gedaliah Gehazi Gideon Goliath Habakkuk Hadadezer Hagar Haggai Haman Hananiah Hannah
    Hazael Herod Hezekiah Hilkiah Hiram Hosea Hoshea Hur Hushai Isaac Isaiah Ishbosheth Ishmael Issachar
    Ithamar Ittai Jabin Jacob Jair James Jehoahaz Jehoiachin Jehoiada Jehoiakim Jehoram Jehoshaphat Jehu
    Jephthah Jephunneh Jeremiah Jeroboam Jerubbaal Jeshua Jesse Jesus Jethro Jezebel Joab Joash Job Joel
    Johanan John Jonadab Jonah Jonathan Joram Joseph Joshua Josiah Jotham Judas Kareah Keturah Kish Kohath
    Korah Laban Lamech Lazarus Leah Levi Lot Luke Maacah Machir Manasseh Manoah Martha Mary Matthew
    Melchizedek Mephibosheth Merari Meshach Micah Micaiah Michael Michal Miriam Mishael Mordecai Moses
    Naaman Nabal Naboth Nadab Nahor Nahshon Naomi Naphtali Nathan Nathanael Nebat Nebuchadnezzar
    Nebuzaradan Nehemiah Ner Nethaniah Nicodemus Noah Nun Obadiah Obed Og Omri Onan Othniel Pashhur Paul
    Pekah Perez Peter Pharaoh Philip Phinehas Pilate Potiphar Priscilla Rabshakeh Rachel Rahab Rebekah
    Rechab Rehoboam Reuben Reuel Rezin Ruth Samson Samuel Sanballat Sarah Sarai Saul Sennacherib Seraiah
    Seth Shadrach Shallum Shaphan Shealtiel Shebna Shem Shemaiah Shimei Shishak Sihon Silas Simeon Simon
    Sisera Solomon Stephen Tamar Terah Thomas Timothy Titus Tobiah Tychicus Uriah Uzzah Uzziah Vashti
    Zacchaeus Zacharias Zadok Zalmunna Zebah Zebedee Zebulun Zechariah Zedekiah Zelophehad Zephaniah Zerah
    Zerubbabel Zeruiah Ziba Zimri Zipporah
    """,
    "LOC": """
    Achaia Adullam Ai Aijalon Ammon Anathoth Antioch Aphek Arabah Arabia Aram Ararat Arnon Aroer Ashdod
    Ashkelon Ashtaroth Asia Assyria Athens Azekah Babylon Bashan Beersheba Bethany Bethel Bethlehem
    Bethsaida Bozrah Caesarea Canaan Capernaum Carmel Chaldea Chebar Cilicia Corinth Crete Cush Cyprus
    Damascus Debir Derbe Dibon Eden Edom Edrei Eglon Egypt Ekron Elam Elim Ephesus Ephrathah Eshtaol
    Ethiopia Euphrates Galatia Galilee Gath Gaza Geba Gerar Gezer Gibeah Gibeon Gilboa Gilead Gilgal
    Gomorrah Goshen Gozan Greece Hamath Haran Havilah Hazor Hebron Hermon Heshbon Hinnom Horeb Hormah
    Iconium Israel Italy Jabbok Jabesh Jazer Jericho Jerusalem Jezreel Joppa Jordan Judah Judea Kadesh
    Kedesh Keilah Kidron Kishon Lachish Laodicea Lebanon Libnah Lystra Macedonia Mahanaim Makkedah Mamre
    Mareshah Media Megiddo Memphis Meribah Mesopotamia Michmash Midian Mizpah Moab Nazareth Nebo Nile
    Nineveh Nob Ophir Paran Penuel Perga Persia Philippi Philistia Phoenicia Pisgah Ramah Rephidim Riblah
    Rome Samaria Sardis Seir Shechem Shiloh Shinar Shittim Shunem Shur Sidon Sinai Smyrna Sodom Spain
    Succoth Susa Syria Taanach Tabor Tarshish Tarsus Tekoa Teman Thessalonica Timnah Tirzah Troas Tyre
    Zarephath Ziklag Zin Zion Ziph Zoar Zobah Zorah
    """,
}
# "Mount" and a place is a place too.
LONGER_NAMES = {
    "PER": """
    Ben Hadad, Judas Iscariot, Simon Iscariot, Mary Magdalene, Pontius Pilate, Simon Peter, Tiglath Pileser,
    Jesus Christ, Christ Jesus, Evil Merodach, Baal Hanan
    """,
    "LOC": """
    Beth Aven, Beth Horon, Beth Peor, Beth Shan, Beth Shean, Beth Shemesh, Beth Zur, Caesarea Philippi,
    En Gedi, En Rogel, Ezion Geber, Jabesh Gilead, Kadesh Barnea, Kiriath Arba, Kiriath Jearim, Mount Ebal,
    Mount Gerizim, Mount Hor, Paddan Aram, Ramoth Gilead, Red Sea, Salt Sea
    """,
}
# Capitalised, and no name of a person or place: God and gods, peoples, feasts, books, exclamations.
OTHERS = """
    Ah Aha Alas Almighty Amen Asherah Asherahs Assyrian Assyrians Baal Baals Babylonians Chaldean
    Chaldeans Chemosh Christ Dagon Egyptian Egyptians Ethiopian Ethiopians Galilean Galileans Gehenna
    Gentile Gentiles Greek Greeks Hades Hallelujah Hebrew Hebrews I I’ll I’m I’ve Jew Jewish Jews Levite
    Levites Medes Meeting Messiah Molech O Passover Persians Pharisee Pharisees Philistine Philistines
    Rabbi Roman Romans Sabbath Sabbaths Sadducees Samaritan Samaritans Satan Scripture Scriptures Selah
    Sheol Syrian Syrians Thummim Urim Yah Yahweh
"""
PEOPLE = re.compile(r"\w+ites?")  # Moabites

WORD = re.compile(r"[’']s\b|\w+(?:[-’']\w+)*?(?=[’']s\b)|\w+(?:[-’']\w+)*|[^\w\s]")


def held_out_names() -> frozenset[str]:
    """Return the names that training never sees: every fifth of each list."""
    return frozenset(name for names in NAMES.values() for name in sorted(names.split())[2::5])


def load_names() -> dict[str, Dataset]:
    """Return the splits train, validation and test with `verse`, `tokens` and `ner_tags` (IOB2).

    Whole chapters are validation (a tenth) and test (a fifth). Training has no verse with a held-out name,
    and no verse that validation or test also has. A verse with a capitalised word that no list has is
    skipped: it may be a name.
    """
    corpus = load_corpus("bible_en_es").values()
    verses = [(row["verse"], words_of(row["en"])) for split in corpus for row in split]
    ordinary = {word for _, words in verses for word in words if word.islower()} | {
        word.lower() for word in OTHERS.split()
    }
    held_out, names = held_out_names(), dict(_typed_names())
    rows: dict[str, list] = {"train": [], "validation": [], "test": []}
    for verse, words in verses:
        tags = tags_of(words, names)
        unknown = (
            word[0].isupper() and label == "O" and word.lower() not in ordinary and not PEOPLE.fullmatch(word)
            for word, label in zip(words, tags)
        )
        if not any(unknown):
            rows[_split_of(verse)].append({"verse": verse, "tokens": words, "ner_tags": tags})
    elsewhere = {tuple(row["tokens"]) for split in ("validation", "test") for row in rows[split]}
    rows["train"] = [
        row
        for row in rows["train"]
        if held_out.isdisjoint(row["tokens"]) and tuple(row["tokens"]) not in elsewhere
    ]
    features = Features(
        {"verse": Value("string"), "tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=TAGS))}
    )
    return {split: Dataset.from_list(found, features=features) for split, found in rows.items()}


def words_of(text: str) -> list[str]:
    """Return words, possessive endings and punctuation marks."""
    return WORD.findall(text)


def tags_of(words: Sequence[str], names: Mapping[tuple[str, ...], str] | None = None) -> list[str]:
    """Return the IOB2 tag of each word. The longest name wins; by default `names` are the lists above."""
    names = dict(_typed_names()) if names is None else names
    tags: list[str] = []
    while len(tags) < len(words):
        rest = words[len(tags) :]
        name = next((name for size in (2, 1) if (name := tuple(rest[:size])) in names), None)
        tags += ["O"] if name is None else [f"B-{names[name]}", f"I-{names[name]}"][: len(name)]
    return tags


def _typed_names() -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the words and the type of each name."""
    for kind, text in NAMES.items():
        for name in text.split():
            yield (name,), kind
            if kind == "LOC":
                yield ("Mount", name), kind
    for kind, text in LONGER_NAMES.items():
        for name in text.split(","):
            yield tuple(name.split()), kind


def _split_of(verse: str) -> str:
    """Return the split of the verse's chapter."""
    number = crc32(verse.rpartition(":")[0].encode()) % 10
    return {0: "test", 1: "test", 2: "validation"}.get(number, "train")
