"""Lines of a csv with a question and its answer -> the questions about a clip.

Columns choices (`a|b|c`, of which the answer is one) and type may stand beside them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from ssvid.errors import UserError
from ssvid.shapes import Question

CHOICES, KIND = "choices", "type"
SEPARATOR = "|"


def read_question(
    where: str, line: Mapping[str, str], question: str, answer: str
) -> Question | None:
    """The question of a line; None if the line has neither a question nor an answer.

    `question`, `answer`: the columns of their texts. Raises a UserError if one of the two is empty,
    or if the answer is none of the choices.
    """
    text, reply = line[question].strip(), line[answer].strip()
    if not text and not reply:
        return None
    if not text or not reply:
        absent = answer if text else question
        raise UserError(f"{where} has no {absent}: fill in {question} and {answer}, or neither.")
    listed = (line.get(CHOICES) or "").strip()
    choices = tuple(map(str.strip, listed.split(SEPARATOR))) if listed else ()
    if choices and (not all(choices) or len(set(choices)) < max(2, len(choices))):
        raise UserError(
            f"{where} has the choices {listed!r}: write two or more different ones with "
            f"{SEPARATOR} between them."
        )
    if choices and reply not in choices:
        raise UserError(
            f"{where} has the answer {reply!r}, which is none of the choices {listed!r}."
        )
    kind = (line.get(KIND) or "").strip()
    return Question(text, ((reply, 1.0),), choices, kind)


def join_answers(questions: Sequence[Question]) -> tuple[Question, ...]:
    """The questions about a clip, of which equal ones are one with several answers.

    The weight of an answer is its share of the lines; the first line has the official one.
    """
    answers_of: dict[Question, Counter[str]] = {}
    for question in questions:
        counts = answers_of.setdefault(question._replace(answers=()), Counter())
        counts[question.answers[0][0]] += 1
    joint = []
    for question, counts in answers_of.items():
        weighted = tuple((answer, n / counts.total()) for answer, n in counts.items())
        joint.append(question._replace(answers=weighted))
    return tuple(joint)
