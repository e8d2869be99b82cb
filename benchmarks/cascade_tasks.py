"""Questions of graded difficulty with one right answer each, for models of 100 to 300 million parameters.

Made from a seed and a few word lists of common knowledge: free to share, in nobody's training set as such, and easy
enough at one end and hard enough at the other that two small models differ. Knows no model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

DRAWS: Final = 40  # of each kind of question that is made from numbers or words

CAPITALS: Final = (
    "France Paris, Germany Berlin, Italy Rome, Spain Madrid, Portugal Lisbon, Greece Athens, Austria Vienna, "
    "Poland Warsaw, Hungary Budapest, Sweden Stockholm, Norway Oslo, Denmark Copenhagen, Finland Helsinki, "
    "Ireland Dublin, Belgium Brussels, Russia Moscow, Ukraine Kyiv, Turkey Ankara, Egypt Cairo, Kenya Nairobi, "
    "Nigeria Abuja, Ghana Accra, Morocco Rabat, Ethiopia Addis_Ababa, China Beijing, Japan Tokyo, India New_Delhi, "
    "Thailand Bangkok, Vietnam Hanoi, Indonesia Jakarta, Iran Tehran, Iraq Baghdad, Pakistan Islamabad, "
    "Canada Ottawa, Mexico Mexico_City, Cuba Havana, Peru Lima, Chile Santiago, Argentina Buenos_Aires, "
    "Colombia Bogota, Venezuela Caracas, Australia Canberra, Mongolia Ulaanbaatar, Nepal Kathmandu, Latvia Riga"
)
CONTINENTS: Final = (
    "Kenya Africa, Egypt Africa, Nigeria Africa, Morocco Africa, Ghana Africa, Angola Africa, Zambia Africa, "
    "Japan Asia, China Asia, India Asia, Vietnam Asia, Thailand Asia, Nepal Asia, Iraq Asia, Mongolia Asia, "
    "France Europe, Poland Europe, Norway Europe, Greece Europe, Portugal Europe, Hungary Europe, Latvia Europe, "
    "Brazil South_America, Peru South_America, Chile South_America, Bolivia South_America, Ecuador South_America, "
    "Canada North_America, Mexico North_America, Cuba North_America, "
    "Algeria Africa, Senegal Africa, Uganda Africa, Korea Asia, Pakistan Asia, Malaysia Asia, Austria Europe, "
    "Sweden Europe, Italy Europe, Colombia South_America, Uruguay South_America, Panama North_America"
)
OPPOSITES: Final = (
    "hot cold, big small, up down, day night, open closed, rich poor, young old, fast slow, hard soft, wet dry, "
    "happy sad, early late, strong weak, light dark, left right, full empty, true false, high low, win lose, "
    "buy sell, love hate, push pull, begin end, inside outside, above below, clean dirty, thick thin, near far, "
    "loud quiet, sharp dull, deep shallow, sweet sour, brave cowardly, ancient modern, tight loose, rough smooth, "
    "accept reject, arrive depart, attack defend, major minor, optimist pessimist, private public, success failure, "
    "victory defeat, wide narrow, wise foolish, alive dead, cheap expensive, difficult easy, guilty innocent, "
    "male female, positive negative, simple complex, temporary permanent, visible invisible, war peace, north south"
)
PASTS: Final = (
    "go went, eat ate, see saw, take took, give gave, come came, run ran, write wrote, speak spoke, break broke, "
    "drink drank, sing sang, swim swam, begin began, fly flew, know knew, grow grew, throw threw, buy bought, "
    "bring brought, think thought, teach taught, catch caught, sell sold, tell told, find found, leave left, "
    "feel felt, keep kept, sleep slept, build built, lose lost, win won, meet met, sit sat, stand stood, wear wore, "
    "draw drew, choose chose, freeze froze, steal stole, drive drove, ride rode, rise rose, hide hid, bite bit, "
    "shake shook, forget forgot, blow blew, hold held, lend lent, send sent, spend spent, fight fought, seek sought, "
    "creep crept, sweep swept, weep wept, dig dug, hang hung, ring rang, sink sank, shine shone, shoot shot"
)
PLURALS: Final = (
    "child children, man men, woman women, foot feet, tooth teeth, mouse mice, goose geese, leaf leaves, wolf wolves, "
    "knife knives, baby babies, city cities, box boxes, bus buses, potato potatoes, person people, ox oxen, "
    "cactus cacti, life lives, wife wives, shelf shelves, hero heroes, story stories, church churches, crisis crises, "
    "thief thieves, half halves, loaf loaves, tomato tomatoes, echo echoes, country countries, family families, "
    "fox foxes, brush brushes, dish dishes, glass glasses, watch watches, lady ladies, fly flies, calf calves, "
    "analysis analyses, criterion criteria, fungus fungi, louse lice, elf elves"
)
SYMBOLS: Final = (
    "hydrogen H, carbon C, nitrogen N, oxygen O, sodium Na, magnesium Mg, aluminium Al, silicon Si, "
    "sulfur S, chlorine Cl, potassium K, calcium Ca, iron Fe, copper Cu, zinc Zn, silver Ag, tin Sn, gold Au, "
    "mercury Hg, lead Pb, uranium U, neon Ne, nickel Ni, phosphorus P, lithium Li, platinum Pt, "
    "barium Ba, boron B, bromine Br, cobalt Co, chromium Cr, fluorine F, manganese Mn, titanium Ti, tungsten W, "
    "radon Rn, radium Ra, argon Ar, krypton Kr, xenon Xe"
)
FRENCH: Final = (
    "water eau, bread pain, house maison, cat chat, dog chien, book livre, red rouge, white blanc, black noir, "
    "green vert, milk lait, cheese fromage, apple pomme, sun soleil, moon lune, night nuit, friend ami, hand main, "
    "eye oeil, tree arbre, fish poisson, school école, street rue, city ville, king roi, queen reine, sea mer, "
    "one un, two deux, three trois, four quatre, five cinq, ten dix, woman femme, man homme, boy garçon, girl fille, "
    "mother mère, father père, brother frère, sister soeur, door porte, window fenêtre, table table, chair chaise, "
    "wine vin, egg oeuf, bird oiseau, horse cheval, blue bleu, yellow jaune, winter hiver, summer été, day jour"
)
SPANISH: Final = (
    "water agua, bread pan, house casa, cat gato, dog perro, book libro, red rojo, white blanco, black negro, "
    "green verde, milk leche, cheese queso, apple manzana, sun sol, moon luna, night noche, friend amigo, hand mano, "
    "eye ojo, tree árbol, fish pez, school escuela, street calle, city ciudad, king rey, queen reina, sea mar, "
    "woman mujer, man hombre, mother madre, father padre, brother hermano, sister hermana, door puerta, wine vino"
)
YOUNG: Final = (
    "dog puppy, cat kitten, cow calf, sheep lamb, horse foal, pig piglet, goat kid, lion cub, bear cub, deer fawn, "
    "duck duckling, goose gosling, hen chick, frog tadpole, kangaroo joey, swan cygnet, eagle eaglet, owl owlet"
)
NAMES: Final = "Tom Anna Ben Mia Sam Lucy Max Ella Leo Nina Paul Rosa"
THINGS: Final = "apples books coins pencils stamps marbles cards shells cookies balloons"
DAYS: Final = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTHS: Final = "January February March April May June July August September October November December"


@dataclass(frozen=True, slots=True)
class Task:
    """checker: one of `router.grading`'s."""

    id: str
    group: str
    prompt: str
    reference: str
    checker: str


SHOTS: Final = (
    ("What is the capital of Brazil?", "Brasilia"),
    ("What is 5 + 4?", "9"),
    ("What is the opposite of tall?", "short"),
    ("Which number comes next: 4, 8, 12, 16?", "20"),
    ("Ida has 6 plums and gets 2 more. How many plums does Ida have now?", "8"),
    ("What is the past tense of the verb wake?", "woke"),
    ("What is half of 200?", "100"),
    ("What is the French word for cow?", "vache"),
)
"""Examples for a model that was never taught to follow instructions. None of them is a task."""


def tasks(seed: int = 0) -> list[Task]:
    """All questions, the same on every machine; no question twice."""
    rng = random.Random(seed)
    found: dict[str, Task] = {}
    for group, (checker, pairs) in {**_listed(), **_drawn(rng)}.items():
        for number, (prompt, reference) in enumerate(pairs):
            found.setdefault(prompt, Task(f"{group}-{number}", group, prompt, reference, checker))
    return list(found.values())


_Group = tuple[str, Sequence[tuple[str, str]]]


def _listed() -> dict[str, _Group]:
    asked = {
        "capital": ("What is the capital of {}?", CAPITALS),
        "continent": ("On which continent is {}?", CONTINENTS),
        "opposite": ("What is the opposite of {}?", OPPOSITES),
        "past": ("What is the past tense of the verb {}?", PASTS),
        "plural": ("What is the plural of {}?", PLURALS),
        "symbol": ("What is the chemical symbol for {}?", SYMBOLS),
        "french": ("What is the French word for {}?", FRENCH),
        "spanish": ("What is the Spanish word for {}?", SPANISH),
        "young": ("What is the young of a {} called?", YOUNG),
    }
    return {group: ("contains", list(_pairs(question, words))) for group, (question, words) in asked.items()}


def _pairs(question: str, words: str) -> Iterator[tuple[str, str]]:
    for pair in words.split(", "):
        known, answer = pair.split(" ")
        yield question.format(known), answer.replace("_", " ")


def _words(text: str) -> list[str]:
    return text.split()


def _drawn(rng: random.Random) -> dict[str, _Group]:
    makers: Mapping[str, tuple[str, Callable[[random.Random], tuple[str, str]]]] = {
        "add_1": ("number", lambda r: _sum(r, 1, 9)),
        "add_2": ("number", lambda r: _sum(r, 11, 99)),
        "subtract": ("number", _difference),
        "multiply": ("number", _product),
        "half": ("number", _half),
        "units": ("number", _units),
        "next_number": ("number", _sequence),
        "gets_more": ("number", _gets_more),
        "gives_away": ("number", _gives_away),
        "calendar": ("contains", _calendar),
    }
    return {name: (checker, [make(rng) for _ in range(DRAWS)]) for name, (checker, make) in makers.items()}


def _sum(rng: random.Random, least: int, most: int) -> tuple[str, str]:
    a, b = rng.randint(least, most), rng.randint(least, most)
    return f"What is {a} + {b}?", str(a + b)


def _difference(rng: random.Random) -> tuple[str, str]:
    a, b = sorted((rng.randint(1, 60), rng.randint(1, 60)), reverse=True)
    return f"What is {a} - {b}?", str(a - b)


def _product(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    return f"What is {a} times {b}?", str(a * b)


def _half(rng: random.Random) -> tuple[str, str]:
    a = rng.randint(1, 60)
    return f"What is half of {2 * a}?", str(a)


def _units(rng: random.Random) -> tuple[str, str]:
    small, large, each = rng.choice(
        [("minutes", "hours", 60), ("days", "weeks", 7), ("months", "years", 12), ("hours", "days", 24)]
    )
    count = rng.randint(2, 9)
    return f"How many {small} are in {count} {large}?", str(count * each)


def _sequence(rng: random.Random) -> tuple[str, str]:
    start, step = rng.randint(1, 20), rng.choice([1, 2, 3, 4, 5, 10])
    shown = ", ".join(str(start + step * i) for i in range(4))
    return f"Which number comes next: {shown}?", str(start + step * 4)


def _gets_more(rng: random.Random) -> tuple[str, str]:
    name, thing, a, b = rng.choice(_words(NAMES)), rng.choice(_words(THINGS)), rng.randint(2, 20), rng.randint(2, 20)
    return f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have now?", str(a + b)


def _gives_away(rng: random.Random) -> tuple[str, str]:
    name, thing, b = rng.choice(_words(NAMES)), rng.choice(_words(THINGS)), rng.randint(1, 9)
    a = b + rng.randint(1, 12)
    return f"{name} has {a} {thing} and gives away {b}. How many {thing} does {name} have left?", str(a - b)


def _calendar(rng: random.Random) -> tuple[str, str]:
    unit, names = rng.choice([("day", _words(DAYS)), ("month", _words(MONTHS))])
    at, after = rng.randrange(len(names)), rng.random() < 0.5
    wanted = names[(at + (1 if after else -1)) % len(names)]
    return f"Which {unit} comes {'after' if after else 'before'} {names[at]}?", wanted
