from ssvid.registry import datasets
from tests.data.test_datasets import check_refusal, table, touch
from tests.helpers import for_each


def test_rows_of_one_path_are_questions_of_one_video(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    text = "path,split,question,answer,choices,type,caption,duration\n"
    text += "a.mp4,train,who?,man,,W,a man,2\na.mp4,train,how,fast,slow|fast,H,,2\n"
    text += "a.mp4,train,who?,boy,,W,,2\na.mp4,train,who?,man,,W,,2\nb.mp4,test,who?,a,,,,2\n"
    text += "c.mp4,test,,,,,,2\n"
    first, second, third = datasets["csv"](table(tmp_path / "q.csv", text)).rows
    who, how = first.questions
    assert who.text == "who?" and who.kind == "W" and who.choices == ()
    assert who.answers == (("man", 2 / 3), ("boy", 1 / 3))
    assert how.choices == ("slow", "fast") and how.answers == (("fast", 1.0),)
    assert first.sentences == ((0.0, 2.0, "a man"),) and third.questions == ()
    assert len(second.questions) == 1 and second.questions[0].kind == ""


@for_each(
    "line, words",
    [
        ("a.mp4,,man,", ("line 2", "question")),
        ("a.mp4,who,,", ("line 2", "answer")),
        ("a.mp4,who,man,boy|girl", ("line 2", "man", "boy|girl")),
        ("a.mp4,who,man,man", ("line 2", "man", "|")),
        ("a.mp4,who,man,man|", ("line 2", "|")),
        ("a.mp4,who,man,man|boy|man", ("line 2", "|")),
    ],
)
def test_questions_of_a_csv_that_cannot_be(tmp_path, line, words):
    touch(tmp_path, "a.mp4")
    root = table(tmp_path / "q.csv", f"path,question,answer,choices\n{line}\n")
    check_refusal("csv", root, *words)


def test_the_columns_of_questions_have_flags(tmp_path, capsys):
    touch(tmp_path, "a.mp4")
    root = table(tmp_path / "q.csv", "path,frage,antwort,question\na.mp4,wer,er,x\n")
    data = datasets["csv"](root, question_column="frage", answer_column="antwort")
    assert data.rows[0].questions[0].text == "wer"
    check_refusal("csv", root, "--data.answer_column", "reply", answer_column="reply")
    check_refusal("csv", root, "frage", "--data.answer_column", question_column="frage")
    assert datasets["csv"](root).rows[0].questions == ()
    assert "question is not read" in capsys.readouterr().err
