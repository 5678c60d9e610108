"""The peers, each run as its documentation advises: a task that checks and then schedules itself again."""
