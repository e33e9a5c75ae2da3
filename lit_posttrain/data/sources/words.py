"""Prompts that ask a story model to mention a word again."""

from collections.abc import Sequence
from dataclasses import dataclass

from lit_posttrain.batches import Problem
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.sources.splitting import check_split, digest
from lit_posttrain.errors import InputError


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Common nouns of small children's English, alike in difficulty over the three lists.
TRAIN_WORDS = _listed("""
    balloon banana basket bear bed berry bike boat book bottle bowl box brush bug butterfly carrot chair
    cherry cloud coin cookie crab crayon door dress drum feather flower forest fox frog gem goose hill
    horse kitchen kitten knife ladder lamp letter mirror mushroom pear penguin phone pig plane pond pot
    potato robot rope shark sheep shirt slide spider squirrel star stone storm swan tiger train turtle
    window worm
""")
VALIDATION_WORDS = _listed("""
    ball bee bell blanket block bucket cake castle chicken cow crown cup duck fairy gift hat hole kite
    lake monkey monster moon mountain pizza puzzle rainbow river rock shell snake swing table tower wolf
""")
TEST_WORDS = _listed("""
    baby bag beach branch bridge bunny candy cave clock clown deer doll dragon fence fish garden guitar
    leaf lion lizard mouse piano picture plate puppy rabbit ship snail spoon stick tomato tree truck
""")
TEMPLATES = (
    "Tom saw a {word}. He",
    "Lily wanted a {word}. She",
    "One day, Sue went to the park with her mom. She saw a {word}. She",
    "Tom had a {word}. One day, his friend came to play.",
    "Tell me a story with a {word}.",
    'Mom said, "Look, a {word}!" Tim',
    "The {word} was very big. Tom and Lily",
    "Write about a {word}. Once upon a time",
)


@dataclass(frozen=True)
class WordPrompts(ProblemSource):
    """Beginnings of stories that name a word; an answer is good when it mentions the word again.

    The reference is a list with the word, as the grader `MustContain` reads it. Every word is put into every
    template. The splits have different words, so that what is learned is to look back at the prompt, not to
    say certain words. There are no worked answers.

    Args:
        train_words: Words of the training prompts; they go after `a`, so begin with a consonant.
        validation_words: Words of the validation prompts.
        test_words: Words of the test prompts.
        templates: Texts with `{word}`.
    """

    train_words: tuple[str, ...] = TRAIN_WORDS
    validation_words: tuple[str, ...] = VALIDATION_WORDS
    test_words: tuple[str, ...] = TEST_WORDS
    templates: tuple[str, ...] = TEMPLATES

    def __post_init__(self) -> None:
        words = [word.lower() for word in (*self.train_words, *self.validation_words, *self.test_words)]
        twice = sorted({word for word in words if words.count(word) > 1})
        if twice:
            raise InputError(
                f"a word must stand once in one of the word lists; more than once: {', '.join(twice)}"
            )
        without = [template for template in self.templates if "{word}" not in template]
        if without or not self.templates:
            raise InputError(
                f"every template must hold {{word}}, and there must be one; without it: {without}"
            )

    def problems(self, split: str) -> Sequence[Problem]:
        """Every word of the split in every template, well mixed; uid is the prompt."""
        check_split(split)
        words = {"train": self.train_words, "validation": self.validation_words, "test": self.test_words}[
            split
        ]
        prompts = {template.replace("{word}", word): word for word in words for template in self.templates}
        return [
            Problem(({"role": "user", "content": prompt},), [prompts[prompt]], prompt, type(self).__name__)
            for prompt in sorted(prompts, key=digest)
        ]
