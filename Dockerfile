# GRIT Workbench on a CPU, with the small model inside:
#   docker build -t grit-workbench . && docker run -p 7860:7860 -v grit-data:/data grit-workbench
FROM python:3.12.12-slim-bookworm

# Builds of torch without CUDA: a tenth of the size.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 1000 grit && install -d -o grit -g grit /data /app
WORKDIR /app
COPY requirements.txt .
RUN pip install --extra-index-url "$TORCH_INDEX" -r requirements.txt
COPY --chown=grit:grit . .

USER 1000
ENV GRIT_HOST=0.0.0.0 GRIT_PORT=7860 GRIT_DATA_DIR=/data HF_HOME=/data/models
VOLUME /data
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health', timeout=4)"]
CMD ["python", "app.py"]
