"""Generated programs: the same for the same seed, run on the model, and made small."""

from mmigrate.compare.cases import load_cases
from mmigrate.compare.model import allowed_answers
from mmigrate.compare.programs import Program, Step, generate, scenario_file, shrink, smaller


def test_a_seed_is_a_program():
    assert generate(7) == generate(7) != generate(8)


def test_programs_are_scenarios_that_the_model_answers(tmp_path):
    file = tmp_path / "programs.py"
    programs = {f"p{n}": generate(n, more=n % 2 == 1) for n in range(40)}
    file.write_text(scenario_file(programs, "Programs."))
    for kernel in ("v3.19", "v6.12"):
        for case in load_cases([str(file)]):
            (answer,) = allowed_answers(case, kernel).answers
            assert "(complaints)" not in answer


def test_what_a_step_needs_goes_with_it():
    program = Program(
        (
            Step("p0 = machine.process()", "p0"),
            Step("a0 = p0.mmap(pages=8)", "a0"),
            Step("p0.touch, a0"),
            Step("p0.migrate_pages, [0], [1]"),
        )
    )
    assert [step.text for step in program.without({1}).steps] == [
        "p0 = machine.process()",
        "p0.migrate_pages, [0], [1]",
    ]
    assert len(smaller(program)[0].steps) < len(smaller(program)[-1].steps)


def test_shrinking_ends_with_what_is_needed():
    program = generate(11)
    wanted = next(step for step in program.steps if ".move_pages" in step.text)

    small = shrink(program, lambda all_: [wanted in each.steps for each in all_])

    assert wanted in small.steps
    assert all(wanted not in each.steps for each in smaller(small))
