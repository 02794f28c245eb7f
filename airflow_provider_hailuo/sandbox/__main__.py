"""`python -m airflow_provider_hailuo.sandbox` is `hailuo-sandbox`."""

from airflow_provider_hailuo.sandbox.cli import main

if __name__ == "__main__":
    main()
