"""Three samples a format, in the forms that its project documents, with rows of our own; and six that fit two formats.

Media are named `one.png`, `pictures/two.png`, `three.png`; `frames/walk` is a folder of frames.
"""

import json
from typing import Any

Rows = list[dict[str, Any]]
PICTURES = ("one.png", "pictures/two.png", "three.png")
FRAMES = "frames/walk"


def parts(text: str, pictures: int = 0) -> list[dict[str, str]]:
    return [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]


def message(role: str, text: str, pictures: int | None = None) -> dict[str, Any]:
    return {"role": role, "content": text if pictures is None else parts(text, pictures)}


def spoken(speaker: str, text: str) -> dict[str, str]:
    return {"from": speaker, "value": text}


def release(n: int, **fields: Any) -> dict[str, Any]:
    row = {"id": f"street_{n}", "question": f"How many bikes lean on wall {n}?", "answer": "", "image": "short/one.png", "video": ""}
    row |= {"models_output": ["Two.", "Three bikes.", "None"], "faithfulness": [5, 3, None], "helpfulness": [4.0, 3, 1]}
    row |= {"ethical": [5, 5, 5], "final_ranking": [1, 2, 2], "score_reasons": ["Right.", "One too many.", ""], "ranking_reason": "Count."}
    return row | fields


def note(rating: Any, text: str = "") -> dict[str, Any]:
    return {"Rating": rating, "Rationale": text}


def rated(model: str, text: str, *ratings: str) -> dict[str, Any]:
    aspects = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
    return {
        "model": model,
        "response": text,
        "annotations": {aspect: note(rating, f"{aspect} of {text}") for aspect, rating in zip(aspects, ratings, strict=True)},
    }


PAIR = {"chosen": "A kettle on a stove.", "rejected": "A dog."}
SAMPLES: dict[str, list[Rows]] = {
    "mm_rlhf": [
        [release(1), release(2, final_ranking=[1, 2, 3], extra={"kept": "as it is"}), release(3, image="", video="video/walk")],
        [release(4, final_ranking="1>2=3"), release(5, final_ranking="Rank: [2>1>3]", image="long/two.png")],
        [
            release(
                6,
                category="mcq",
                image=None,
                video=None,
                models_output=["A", "B"],
                final_ranking=[2, 1],
                faithfulness=[],
                helpfulness=[],
                ethical=[],
                score_reasons=[],
            )
        ],
    ],
    "mm_rlhf_pairs": [
        [
            {
                "id": "walk/1",
                "video": "video/walk",
                "prompt": "Where does she go?",
                "chosen": "To the shop.",
                "rejected": "Nowhere.",
                "chosen_reason": "Seen in frame 3.",
                "rejected_reason": "She does move.",
            },
            {
                "id": "walk/1",
                "video": "video/walk",
                "prompt": "Where does she go?",
                "chosen": "To the shop.",
                "rejected": "Home.",
                "chosen_reason": "Seen in frame 3.",
                "rejected_reason": "No house.",
            },
        ],
        [
            {
                "id": "q",
                "image": "short/one.png",
                "prompt": "Read the sign.",
                "chosen": better,
                "rejected": worse,
                "chosen_reason": f"{better}!",
                "rejected_reason": f"{worse}!",
            }
            for better, worse in (("Halt", "Hall"), ("Halt", "Hull"), ("Hall", "Hull"))
        ],
        [
            {"id": 7, "prompt": "Name a tool.", "chosen": "A saw.", "rejected": "A tree.", "chosen_reason": "", "rejected_reason": ""},
            {
                "id": "other",
                "image": "mcq/two.png",
                "prompt": "Which?\nA. left\nB. right",
                "chosen": "A",
                "rejected": "B",
                "chosen_reason": "Left it is.",
                "rejected_reason": "",
            },
        ],
    ],
    "trl": [
        [  # conversational, explicit prompt, images as a list
            {
                "images": ["one.png"],
                "prompt": [message("user", "What stands here?", 1)],
                "chosen": [message("assistant", "A kettle on a stove.", 0)],
                "rejected": [message("assistant", "A dog.", 0)],
                "score": 0.5,
            },
            {
                "images": ["one.png", "three.png"],
                "prompt": [message("system", "Be brief.", 0), message("user", "Which is larger?", 2)],
                "chosen": [message("assistant", "The first.", 0)],
                "rejected": [message("assistant", "The second.", 0)],
            },
        ],
        [  # conversational, implicit prompt, contents as texts
            {
                "chosen": [
                    message("user", "Name a colour."),
                    message("assistant", "Red."),
                    message("user", "And another?"),
                    message("assistant", "Blue."),
                ],
                "rejected": [
                    message("user", "Name a colour."),
                    message("assistant", "Red."),
                    message("user", "And another?"),
                    message("assistant", "Table."),
                ],
            },
        ],
        [
            {"prompt": "What is in the picture?", "image": "pictures/two.png", **PAIR},
            {"prompt": "Say hello.", "chosen": "Hello.", "rejected": "No."},
        ],
    ],
    "llama_factory": [
        [
            {
                "conversations": [spoken("human", "<image>What stands here?")],
                "chosen": spoken("gpt", "A kettle."),
                "rejected": spoken("gpt", "A dog."),
                "images": ["one.png"],
            },
            {
                "conversations": [spoken("human", "<image>Name it."), spoken("gpt", "A pot."), spoken("human", "Are you sure?")],
                "chosen": spoken("gpt", "No, a kettle."),
                "rejected": spoken("gpt", "Yes."),
                "images": ["pictures/two.png"],
                "system": "Be honest.",
            },
        ],
        [
            {"instruction": "Sort these.", "input": "3 1 2", "chosen": "1 2 3", "rejected": "3 2 1", "images": []},
            {
                "instruction": "<image>Describe.",
                "chosen": "A stove.",
                "rejected": "A lake.",
                "images": ["three.png"],
                "history": [["Hi.", "Hello."]],
            },
        ],
        [
            {
                "messages": [message("user", "<image>Left or right?")],
                "chosen": message("assistant", "Left."),
                "rejected": message("assistant", "Right."),
                "images": ["one.png"],
            }
        ],
    ],
    "swift": [
        [
            {
                "messages": [message("system", "Be kind."), message("user", "<image>What is it?"), message("assistant", "A kettle.")],
                "rejected_response": "A dog.",
                "images": ["one.png"],
            },
            {
                "messages": [
                    message("user", "Hi."),
                    message("assistant", "Hello."),
                    message("user", "Sum of 2 and 2?"),
                    message("assistant", "4"),
                ],
                "rejected_response": "5",
            },
        ],
        [
            {
                "messages": [message("user", "<image>What is it?"), message("assistant", "A stove.")],
                "images": [{"path": "three.png"}],
                "rejected_messages": [message("user", "<image>What is it?"), message("assistant", "A lake.")],
                "rejected_images": [{"path": "three.png"}],
            }
        ],
        [
            {
                "query": "<image>Left or right?",
                "response": "Left.",
                "rejected_response": "Right.",
                "images": ["one.png"],
                "history": [["Hi.", "Hello."]],
            },
            {"image": "pictures/two.png", "question": "What colour?", "response": "Grey.", "rejected_response": "Pink."},
        ],
    ],
    "rlhf_v": [
        [
            {
                "ds_name": "RLHF-V",
                "image": "one.png",
                "text": json.dumps({"question": "What is it?", **PAIR}),
                "origin_dataset": "own",
                "origin_split": json.dumps({"type": "detailed"}),
                "idx": 0,
                "image_path": "x/one.png",
            }
        ],
        [{"image": "three.png", "text": {"question": "Any people?", "chosen": "None.", "rejected": "Three."}}],
        [
            {"idx": n, "image_path": PICTURES[n], "text": json.dumps({"question": f"Item {n}?", "chosen": "Yes.", "rejected": "No."})}
            for n in range(3)
        ],
    ],
    "rlaif_v": [
        [
            {
                "ds_name": "RLAIF-V",
                "image": "one.png",
                "question": "What is it?",
                **PAIR,
                "origin_dataset": "own",
                "origin_split": "{}",
                "idx": 0,
                "image_path": "x/one.png",
            },
            {
                "ds_name": "RLAIF-V",
                "image": "one.png",
                "question": "What is it?",
                "chosen": "A stove with a kettle.",
                "rejected": "A lake.",
                "origin_dataset": "own",
                "origin_split": "{}",
                "idx": 1,
                "image_path": "x/one.png",
            },
        ],
        [{"question": "How many?", "chosen": "Two.", "rejected": "Nine.", "image": "pictures/two.png"}],
        [{"question": f"Item {n}?", "chosen": "Yes.", "rejected": "No.", "image_path": PICTURES[n], "idx": n} for n in range(3)],
    ],
    "vlfeedback": [
        [
            {
                "id": "svit-1",
                "prompt": "Describe it.",
                "models": ["a", "b", "c"],
                "img": "one.png",
                "completions": [
                    rated("a", "A kettle.", "5", "5", "5"),
                    rated("b", "A pot.", "4", "5", "3"),
                    rated("c", "A dog.", "1", "5", "1"),
                ],
            }
        ],
        [
            {
                "id": "lrv-2",
                "prompt": "How many?",
                "img_path": "pictures/two.png",
                "completions": {
                    "model": ["a", "b"],
                    "response": ["Two.", "Nine."],
                    "annotations": [rated("a", "Two.", "4", "5", "N/A")["annotations"], rated("b", "Nine.", "1", "5", "2")["annotations"]],
                },
            }
        ],
        [
            {
                "id": f"m-{n}",
                "prompt": f"Item {n}?",
                "image": PICTURES[n],
                "completions": [rated("a", "Yes.", "3", "5", "4"), rated("b", "No.", "3", "5", "4"), rated("c", "Maybe.", "1", "1", "1")],
            }
            for n in range(3)
        ],
    ],
}

# Each fits the two formats named; which is meant, the rows do not say.
AMBIGUOUS: list[tuple[Rows, tuple[str, str]]] = [
    ([{"id": "a", "image": "one.png", "prompt": "What is it?", **PAIR}], ("mm_rlhf_pairs", "trl")),
    (
        [
            {
                "messages": [message("user", "Hi."), message("assistant", "Hello.")],
                "rejected_response": "No.",
                "chosen": spoken("gpt", "Hey."),
                "rejected": spoken("gpt", "What?"),
            }
        ],
        ("llama_factory", "swift"),
    ),
    ([{"prompt": "What is it?", "question": "What stands there?", "image": "one.png", **PAIR}], ("trl", "rlaif_v")),
    ([{"text": json.dumps({"question": "What?", **PAIR}), "question": "What?", **PAIR, "image": "one.png"}], ("rlhf_v", "rlaif_v")),
    (
        [
            release(1)
            | {"question": "How many?", "messages": [message("user", "Hi."), message("assistant", "Hello.")], "rejected_response": "No."}
        ],
        ("mm_rlhf", "swift"),
    ),
    (
        [
            {
                "prompt": "What?",
                "img": "one.png",
                "completions": [rated("a", "Yes.", "5", "5", "5"), rated("b", "No.", "1", "1", "1")],
                "chosen": "Yes.",
                "rejected": "No.",
            }
        ],
        ("trl", "vlfeedback"),
    ),
]
