"""Make the users of an Airflow with FAB: `users.py <password> <JSON: user to role> <DAG not for guests> <DAG>...`."""

from __future__ import annotations

import json
import sys

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.providers.fab.auth_manager.models.db import FABDBManager
from airflow.utils.session import create_session

password, users, confidential, *dag_ids = sys.argv[1:]

with create_session() as session:
    FABDBManager(session).upgradedb()

with get_application_builder() as builder:
    roles = builder.sm
    roles.sync_roles()
    # What a viewer may, less all DAGs, and with each DAG but one.
    roles.bulk_sync_roles(
        [{"role": "Guest", "perms": [perm for perm in roles.VIEWER_PERMISSIONS if perm != ("can_read", "DAGs")]}]
    )
    for dag_id in dag_ids:
        roles.sync_perm_for_dag(dag_id, {"Guest": {"DAGs": set() if dag_id == confidential else {"can_read"}}})
    for user, role in json.loads(users).items():
        made = roles.add_user(
            user, user.title(), "Test", f"{user}@example.com", roles.find_role(role), password=password
        )
        if not made:
            sys.exit(f"{user} could not be made")
