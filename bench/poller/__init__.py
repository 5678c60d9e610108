"""Following many long tasks: our poller beside what a team would pick instead, on one provider and one Postgres."""
