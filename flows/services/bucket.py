"""``python -m flows.services.bucket NAME``: makes a bucket in an S3 store, once the store answers."""

from __future__ import annotations

import argparse
import os
import sys
import time

import boto3
from botocore.exceptions import BotoCoreError, ClientError

PAUSE = 2.0


def make_bucket(name: str, endpoint: str | None, timeout: float = 120.0) -> bool:
    """Makes a bucket that is not there yet; credentials come from boto3's usual places.

    Args:
        name: The bucket.
        endpoint: Address of the store, None for AWS.
        timeout: Seconds within which the store must answer.

    Returns:
        Whether it was made; False where it was there.

    Raises:
        ClientError: The store refuses.
        BotoCoreError: The store does not answer.
    """
    client = boto3.client("s3", endpoint_url=endpoint)
    deadline = time.monotonic() + timeout
    while True:
        try:
            if name in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                return False
            client.create_bucket(Bucket=name)
        except (ClientError, BotoCoreError):
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE)
        else:
            return True


def main() -> None:
    """Makes the bucket that is named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.services.bucket", description=__doc__)
    parser.add_argument("name", help="name of the bucket")
    name = parser.parse_args().name
    made = make_bucket(name, os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
    sys.stdout.write(f"bucket {name}: {'made' if made else 'was there'}\n")


if __name__ == "__main__":
    main()
