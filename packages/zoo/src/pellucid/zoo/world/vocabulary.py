"""The names of all that Tinyworld can show; every other file takes them from here."""

OBJECTS = (
    "circle", "square", "triangle", "star", "heart", "cross", "ring", "moon",
    "house", "tree", "car", "boat", "fish", "mug", "chair", "rocket",
)  # fmt: skip
PLURALS = {name: {"cross": "crosses", "fish": "fishes"}.get(name, f"{name}s") for name in OBJECTS}

# Red, green and blue of each colour before its seed shifts it a little.
COLOURS = {
    "red": (214, 32, 38),
    "orange": (246, 138, 22),
    "yellow": (250, 220, 40),
    "green": (34, 152, 60),
    "blue": (34, 84, 214),
    "purple": (128, 44, 170),
    "pink": (250, 138, 190),
    "black": (36, 36, 42),
}
TEXTURES = ("plain", "striped", "dotted", "checked")
STYLES = ("van gogh", "monet", "mondrian", "seurat", "hokusai", "warhol")
PLACES = ("beach", "forest", "snow", "city")
VIEWS = ("front", "back", "left", "right")
RELATIONS = ("left of", "right of", "above", "below")
COUNTS = {1: "a", 2: "two", 3: "three"}

# The same relation, said from the other thing.
CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
