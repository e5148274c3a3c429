# The server. Build: docker build -t joyimage .
# Run: docker run --gpus all -p 127.0.0.1:8600:8600 -v joyimage:/data -v ./keys:/run/secrets/keys:ro joyimage
# `docker stop` kills after 10 s, so running jobs get 3 s to end; the others run again at the next start. For more:
# docker run --stop-timeout 60 -e JOYIMAGE_SHUTDOWN_GRACE_S=40 ...
FROM python:3.12-slim

RUN useradd --create-home --uid 10001 joyimage && mkdir -m 700 /data && chown joyimage /data
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY src ./src
RUN pip install --no-cache-dir -c constraints.txt ".[ray]"

# By number, so that Kubernetes can check that it is not root.
USER 10001
ENV JOYIMAGE_DATA_DIR=/data
ENV JOYIMAGE_SHUTDOWN_GRACE_S=3
VOLUME /data
EXPOSE 8600
# Whether a restart would help; whether jobs can run now is what /readyz tells.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import httpx2; httpx2.get('http://127.0.0.1:8600/livez').raise_for_status()"]
# Others can reach a container's address, so a key file has to be there.
ENTRYPOINT ["joyimage", "serve", "--host", "0.0.0.0", "--port", "8600"]
CMD ["--api-keys-file", "/run/secrets/keys"]
