from tests.unit.operators.conftest import airflow, log, storeless, world
from tests.unit.operators.test_pictures import picture, run, sandbox

__all__ = ["airflow", "log", "picture", "run", "sandbox", "storeless", "world"]
