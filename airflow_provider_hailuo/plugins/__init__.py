"""What people look at in the Airflow UI, and where the API's webhooks arrive."""
