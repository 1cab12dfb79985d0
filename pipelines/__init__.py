"""One recipe per task. A module here that has TASK and RECIPES is a task of the `tfhf` command."""
