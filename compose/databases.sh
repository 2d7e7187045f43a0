#!/bin/sh
# One role a server and its databases, closed to the other. PostgreSQL's image runs this when its volume is new.
set -eu
psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv mlflow_password MLFLOW_DB_PASSWORD
\getenv prefect_password PREFECT_DB_PASSWORD
create role mlflow login password :'mlflow_password';
create role prefect login password :'prefect_password';
create database mlflow owner mlflow;
create database mlflow_auth owner mlflow;
create database prefect owner prefect;
revoke all on database mlflow, mlflow_auth, prefect from public;
SQL
