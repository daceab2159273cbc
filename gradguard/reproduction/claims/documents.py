"""The five documents whose claims are put to the test."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """A source document.

    Attributes:
        author: Who wrote it.
        title: What it is called; the Chinese titles are translated.
        year: When, "n.d." where it does not say.
    """

    author: str
    title: str
    year: str

    def __str__(self) -> str:
        return f'{self.author}, "{self.title}", {self.year}'


BROWNLEE = Document(
    "Jason Brownlee", "How to Avoid Exploding Gradients With Gradient Clipping", "2019"
)
TAM = Document("Adrian Tam", "Visualizing the vanishing gradient problem", "2021")
CSDN = Document("Anonymous (CSDN)", "Clipping gradients in deep learning", "n.d.")
LAB = Document(
    "ckh20040422",
    "HBU deep learning lab 14.5: recurrent networks, after Qiu Xipeng et al.",
    "2024",
)
STABILITY = Document(
    "Anonymous (blog)", "Numerical stability: vanishing and exploding gradients", "n.d."
)

# What CSDN clips to norm 3, and what it prints as the result.
CSDN_GRADIENT = (1.0, 2.0, 3.0, 4.0, 5.0)
CSDN_PRINTED = (0.53881591, 1.07763181, 1.61644772, 2.15526362, 2.69407953)
