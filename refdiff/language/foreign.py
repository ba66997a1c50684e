"""Whether a text is English at all, told by its letters and by short lists of function words."""

from __future__ import annotations

import re
import unicodedata

_WORDS = frozenset(
    "el los las del una unos unas con sobre izquierda derecha arriba abajo rojo roja negro blanca "
    "le les des une dans sur avec au aux du et qui gauche droite rouge noir chien "
    "der das dem den ein eine einen und mit auf im vom zum neben hinter links rechts rote roter "
    "rotes il lo gli della dello nel nella sul sulla destra sinistra rosso gatto cane "
    "um uma dos das com esquerda direita vermelho gato perro chat hund katze mann frau hombre "
    "mujer homme femme uomo donna homem mulher de het een van op naast links en och med till "
    "den det ett på vänster höger med til na po lewej prawej czerwony kot pies ve ile bir "
    "sol sağ araba köpek kedi".split()
)
_ENGLISH = frozenset(
    "the a an of on in at to with and or is are that which who left right next from by for not no "
    "red one man woman cat dog".split()
)


def foreign_note(text: str) -> str:
    """One sentence for a text that is hardly English, else ""."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    strange = sum(_other_script(word) for word in words)
    known = sum(word in _WORDS for word in words)
    english = sum(word in _ENGLISH for word in words)
    if 2 * strange < max(1, len(words)) and not (known and known > english and len(words) > 1):
        return ""
    return (
        "only English is read, and the text seems to be in another language; "
        "write it in English, or name the word to look for (focus)"
    )


def _other_script(word: str) -> bool:
    """True for letters that are not Latin."""
    return any(not unicodedata.name(c, "LATIN").startswith("LATIN") for c in word)
