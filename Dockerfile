# The server. Build: docker build -t joyimage .
# Run: docker run --gpus all -p 127.0.0.1:8600:8600 -v joyimage:/data -v ./keys:/run/secrets/keys:ro joyimage
FROM python:3.12-slim

RUN useradd --create-home --uid 10001 joyimage && mkdir /data && chown joyimage /data
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY src ./src
RUN pip install --no-cache-dir -c constraints.txt ".[ray]"

# By number, so that Kubernetes can tell that it isn't root.
USER 10001
ENV JOYIMAGE_DATA_DIR=/data
VOLUME /data
EXPOSE 8600
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s \
    CMD ["python", "-c", "import httpx2; httpx2.get('http://127.0.0.1:8600/readyz').raise_for_status()"]
# Others can reach a container's address, so a key file has to be there.
ENTRYPOINT ["joyimage", "serve", "--host", "0.0.0.0", "--port", "8600"]
CMD ["--api-keys-file", "/run/secrets/keys"]
