"""The base's tokenizer and chat template.

- A byte-level BPE encodes any text and decodes it unchanged. It is trained on the demo's words, so that each word is one token.
- The turn markers and placeholders are special tokens: a run of placeholders must not merge into one unknown token.
- The template accepts content as a list of parts and as a plain string.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from demo.families import FAMILIES, draw_task
from demo.images import load_pictures
from demo.requests import HARD_HARMFUL, HARD_HARMLESS, HARMFUL, HARMLESS
from demo.tasks import seeded
from demo.wordings import ALL_WORDINGS

PAD, START, END, IMAGE_TOKEN, VIDEO_TOKEN = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"
SPECIAL = (PAD, START, END, IMAGE_TOKEN, VIDEO_TOKEN)
LARGEST_VOCABULARY = 3000  # a bound only: training stops when every word of the demo is one token
SAMPLES = 150  # tasks of each family whose words the tokenizer learns

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'video' %}<video>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# The pieces into which the byte-level pre-tokenizer cuts English text: a word with the space before it, or a run of marks.
_PIECE = re.compile(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+")


def demo_texts(instruction: str) -> list[str]:
    """Prompts, answers and critiques of all families, with the judge's instruction and the words of the template."""
    chance = seeded("words")
    pictures = load_pictures("train")
    texts = [f"{instruction}\nQuestion: \nAnswer:\n", "user\n", "assistant\n", "system\n"]
    texts += [re.sub(r"{\w+}", "", wording.text) for wordings in ALL_WORDINGS for wording in wordings.of("base")]
    texts += [f"To {verb} {thing}" for verb, thing in (*HARMFUL, *HARMLESS, *HARD_HARMFUL, *HARD_HARMLESS)]
    for family in FAMILIES:
        for _ in range(SAMPLES):
            task = draw_task(family, pictures, chance)
            texts.append(task.prompt)
            for answer in (task.any_answer(chance) for _ in range(6)):
                texts += [answer.text, task.critique(answer)]
    return texts


def train_tokenizer(instruction: str) -> Any:
    """The tokenizer as transformers opens it; the same for the same instruction."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    counts = Counter(piece for text in demo_texts(instruction) for piece in _PIECE.findall(text))
    pieces = sorted(counts)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LARGEST_VOCABULARY,
        min_frequency=1,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer)  # each once: a rare word becomes one token as well as a frequent one
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=None,
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,
        additional_special_tokens=[START, IMAGE_TOKEN, VIDEO_TOKEN],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        padding_side="left",
    )
