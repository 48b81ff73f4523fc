"""What MLflow runs to have the model of this folder; what is asked of it stands in artifacts/settings.json."""

from mlflow.models import set_model

from lightning_automl_vision.delivery.mlflow_model import ImageModel

set_model(ImageModel())
