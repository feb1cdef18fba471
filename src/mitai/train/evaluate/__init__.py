"""Evaluation over sealed test sets: of the tests and of the answers nothing leaves but the numbers of a signed report.

`tasks` is what a job file says, `run` measures, `disclosure` decides which numbers may leave, `report` signs them, and
`leaderboard` compares the reports of several models. `docs/spec/evaluation.md` has it all.
"""
