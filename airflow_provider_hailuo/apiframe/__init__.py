"""The Apiframe v2 API, typed. Nothing in here knows Airflow."""
