"""The forty nouns that the sticker models know, each with its emoji's code point."""

CODE_POINTS = {
    "dog": "1f436", "cat": "1f431", "apple": "1f34e", "car": "1f697", "tree": "1f333",
    "fish": "1f41f", "bird": "1f426", "frog": "1f438", "pizza": "1f355", "banana": "1f34c",
    "house": "1f3e0", "guitar": "1f3b8", "flower": "1f33b", "mushroom": "1f344", "pig": "1f437",
    "cow": "1f42e", "bear": "1f43b", "rabbit": "1f430", "turtle": "1f422", "elephant": "1f418",
    "bicycle": "1f6b2", "rocket": "1f680", "umbrella": "2602", "balloon": "1f388",
    "cake": "1f382", "cup": "2615", "strawberry": "1f353", "carrot": "1f955", "snowman": "2603",
    "butterfly": "1f98b", "penguin": "1f427", "chicken": "1f414", "bus": "1f68c",
    "train": "1f686", "boat": "26f5", "airplane": "2708", "clock": "23f0", "book": "1f4d5",
    "hat": "1f3a9", "shoe": "1f45f",
}  # fmt: skip
NOUNS = tuple(CODE_POINTS)
