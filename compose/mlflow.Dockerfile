# MLflow's own image, and what PostgreSQL, S3 and basic auth need, at the versions of requirements.txt.
FROM ghcr.io/mlflow/mlflow:v3.17.2
RUN pip install --no-cache-dir "mlflow[auth]==3.17.2" psycopg2-binary==2.9.13 boto3==1.43.117
RUN useradd --create-home mlflow
USER mlflow
WORKDIR /home/mlflow
