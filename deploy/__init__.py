"""What runs beside the services: dashboards and rules, as code."""
