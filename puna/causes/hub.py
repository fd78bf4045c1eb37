"""Downloads from Hugging Face that `files.py` does not cover: Xet transfers, limits, the renamed command."""

from __future__ import annotations

from puna.causes.base import Captures, Cause, Explanation, says

PULL = "puna pull resumes a broken download and checks its sha256; HF_HUB_DISABLE_XET=1 works for it too."


def explain_xet(numbers: Captures) -> Explanation:
    """A broken Xet transfer, with received and expected bytes."""
    got, expected = numbers.get("got", ""), numbers.get("expected", "")
    much = f" One piece had {got} bytes instead of {expected}." if got and expected else ""
    return Explanation(
        f"A download over Xet (Hugging Face sends files in pieces) broke off.{much} Likely reasons are the connection, a "
        "proxy that cuts long transfers, a full or read-only cache folder, or an old hf_xet.",
        (
            "Start it again: finished pieces are kept. Update first: python -m pip install -U huggingface_hub hf_xet",
            "If it fails again, download without Xet: export HF_HUB_DISABLE_XET=1; in PowerShell: $env:HF_HUB_DISABLE_XET=1",
            "See whether the cache folder has room and is yours: df -h ~/.cache/huggingface; ls -ld ~/.cache/huggingface/xet",
            "On a slow connection, use fewer workers: hf download OWNER/REPO --max-workers 1",
        ),
        "",
        PULL,
        numbers,
    )


CAUSES = (
    Cause(
        "tiktoken-download",
        "hub",
        (
            "error downloading or loading vocab file",
            "failed to download or load vocab file",
            "failed to load harmony encoding",
            "openaipublic.blob.core.windows.net/encodings/{file:path}",
            "host='openaipublic.blob.core.windows.net'",
            "openaipublic.blob.core.windows.net",
        ),
        says(
            "The program fetches a vocabulary (o200k_base.tiktoken for gpt-oss) when it starts, whatever lies in the model's "
            "folder, and did not reach openaipublic.blob.core.windows.net: no network, or a proxy with a certificate of its own.",
            "Fetch it once, where there is a network, and cl100k_base.tiktoken from there, too: curl -O "
            "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken",
            "Put them into a folder of the machine, and name that for gpt-oss (openai_harmony; vLLM, SGLang, TensorRT-LLM): "
            "export TIKTOKEN_ENCODINGS_BASE=/path/of/folder",
            "In a container mount that folder, and give the variable with -e.",
            "Python's own tiktoken reads another variable, and files that are named by a checksum: fill the folder on a machine "
            "with network by TIKTOKEN_CACHE_DIR=FOLDER, then copy it.",
            instead="puna reads the vocabulary from the model's own files.",
        ),
        ("+harmony|tiktoken|gpt-oss|o200k", "+vocab|download|offline|encoding", "fail|error|network|air-gapped"),
        concept="tokenizer",
    ),
    Cause(
        "rust-certificate",
        "hub",
        (
            "xethub.hf.co ~~~ invalidcertificate(",
            "invalidcertificate({reason:name})",
            "invalid peer certificate: {reason:name}",
            "invalid peer certificate",
        ),
        says(
            "The program (hf_xet and uv are written in Rust) does not trust the server's certificate: a company's or school's "
            "proxy shows its own, and such programs look neither into Python's list nor always into the system's. A browser, "
            "curl and pip may work.",
            "Downloads from Hugging Face: leave Xet out, and name the proxy's certificate: export HF_HUB_DISABLE_XET=1 "
            "REQUESTS_CA_BUNDLE=/path/of/ca.pem SSL_CERT_FILE=/path/of/ca.pem",
            "Or update hf_xet, which in newer versions reads SSL_CERT_FILE: python -m pip install -U huggingface_hub hf_xet",
            "uv: take the system's list, or name the certificate: export UV_NATIVE_TLS=1 SSL_CERT_FILE=/path/of/ca.pem",
            instead="puna pull checks the sha256 of what comes; HF_HUB_DISABLE_XET=1 works for it too.",
        ),
        ("+unknownissuer|peer certificate|unknown issuer", "+certificate|tls|proxy", "xet|uv|hf|rust"),
    ),
    Cause(
        "hf-command-renamed",
        "hub",
        (
            "`huggingface-cli` is deprecated",
            "'huggingface-cli' is deprecated",
            "huggingface-cli is deprecated",
            "huggingface-cli: command not found",
            "'huggingface-cli' is not recognized",
            "huggingface-cli: not found",
            "no such file or directory: 'huggingface-cli'",
            "hf: command not found",
            "'hf' is not recognized",
            "huggingface-cli ... is no longer",
            "does not provide the extra 'cli'",
            "fast download using 'hf_transfer' is enabled",
            "but 'hf_transfer' package is not available",
            "`hf_hub_enable_hf_transfer` ... deprecated",
            "hf_hub_enable_hf_transfer ... is deprecated",
        ),
        says(
            "The command huggingface-cli is now hf (huggingface_hub 1.0), and hf_transfer was replaced by hf_xet. The command is "
            "in the environment where huggingface_hub is installed.",
            "Install it: python -m pip install -U huggingface_hub",
            "New names: hf auth login, hf download OWNER/REPO, hf cache ls",
            "Remove the variable HF_HUB_ENABLE_HF_TRANSFER; hf_xet comes with huggingface_hub.",
            instead=PULL,
        ),
        ("+huggingface-cli|hf_transfer|hf command", "+not found|deprecated|not recognized|renamed|removed"),
    ),
    Cause(
        "xet-transfer",
        "hub",
        (
            "result term data length {got:int} did not match expected value {expected:int}",
            "data processing error: cas service error",
            "data processing error: file reconstruction error",
            "cas service error",
            "casclienterror",
            "data processing error:",
            "single flight error: real call failed",
            "casobjecterror",
            "cas-server.xethub.hf.co",
            "cas-bridge.xethub.hf.co",
            "transfer.xethub.hf.co",
            "xethub.hf.co",
            "xet_download ... runtimeerror",
            "xet_get ... error",
            "hf_xet ... panicked",
            "file reconstruction error",
        ),
        explain_xet,
        ("+xet|hf_xet", "+download|transfer|stuck|hang|slow|fail|error|99"),
    ),
    Cause(
        "xet-not-installed",
        "hub",
        ("xet storage is enabled for this repo, but the 'hf_xet' package is not installed",),
        says(
            "The repository stores its files with Xet, but the package hf_xet is not installed: the download uses plain "
            "HTTPS. That is slower for some files, not an error.",
            "To use Xet: python -m pip install hf_xet",
            instead=PULL,
        ),
        role="symptom",
    ),
    Cause(
        "hub-rate-limit",
        "hub",
        (
            "429 client error: too many requests for url: https://huggingface.co",
            "429 client error: too many requests",
            "client error '429 too many requests'",
            "http status client error (429 too many requests)",
            "429 too many requests ... huggingface",
            "huggingface ... 429 too many requests",
            "you have hit the rate limit",
            "we had to rate limit your ip",
            "rate limit ... huggingface.co/docs/hub/rate-limits",
        ),
        says(
            "The server got too many requests from this address or account in a short time (HTTP 429) and refuses more for some "
            "minutes. Those who are not signed in, and many machines behind one address, reach the limit first.",
            "Wait five minutes, then start it again; finished files are kept.",
            "Sign in, which raises the limit: hf auth login, or export HF_TOKEN=...",
            "Use fewer workers: hf download OWNER/REPO --max-workers 2. Once the files are here: export HF_HUB_OFFLINE=1",
            instead="puna asks for the one file that it runs, and never again once it is in the cache.",
        ),
        ("+429|rate limit|too many requests", "+huggingface|hub|hf"),
    ),
    Cause(
        "hub-token-invalid",
        "hub",
        (
            "invalid credentials in authorization header",
            "invalid user token",
            "401 client error ... invalid username or password",
            "token is required (`token=true`), but no token found",
            "localtokennotfounderror",
            "the token has not been saved",
            "401 client error: unauthorized for url: https://huggingface.co",
            "client error '401 unauthorized' for url 'https://huggingface.co",
            "error from hf api, response code: 401",
            "error from hf api, response code: 403",
            "model is private or does not exist; if you are accessing a gated model",
        ),
        says(
            "Hugging Face refused the token: it is wrong, was revoked, or there is none. An old token in HF_TOKEN overrides the "
            "one that you signed in with. A misspelt model name gives the same error.",
            "See who you are: hf auth whoami; echo $HF_TOKEN",
            "Make a new token with read access at https://huggingface.co/settings/tokens, then: hf auth login --force",
            "A public model needs none: unset HF_TOKEN, and check the model's name.",
            instead=PULL,
        ),
        ("+huggingface|hf_token|hugging face", "+401|unauthorized|invalid token|token"),
    ),
    Cause(
        "hub-client",
        "hub",
        ("cannot send a request, as the client has been closed",),
        says(
            "A program closed the connection that huggingface_hub 1.x shares among all requests; each later request then fails. "
            "It is often the second error: the first one stands above it.",
            "Look at the error above this one; without network it is the connection.",
            "Update: python -m pip install -U huggingface_hub transformers",
            "Once the files are here, no request is needed: export HF_HUB_OFFLINE=1",
            instead=PULL,
        ),
        ("+client has been closed", "+huggingface|httpx|request"),
    ),
    Cause(
        "hub-server-error",
        "hub",
        (
            "{code:int} server error: {reason:word} for url: https://huggingface.co",
            "server error: {reason:word} time-out for url: https://huggingface.co",
            "server error '{code:int} ... ' for url 'https://huggingface.co",
            "remotedisconnected('remote end closed connection without response')",
            "internal error - we're working hard to fix this",
        ),
        says(
            "The server, or a mirror or proxy before it, closed the connection or failed (HTTP 5xx). It is not your files' "
            "fault.",
            "Try again in some minutes; https://status.huggingface.co says whether the Hub has trouble.",
            "If a mirror is set, try without it: echo $HF_ENDPOINT",
            instead=PULL,
        ),
        ("+huggingface", "+502|503|504|500|server error"),
    ),
    Cause(
        "hub-cache-rights",
        "hub",
        (
            "permission denied: '{folder:path}huggingface",
            "permission denied: '{folder:path}models--",
            "read-only file system: '{folder:path}huggingface",
            "there was a problem when trying to write in your cache folder ({folder:path})",
            "there was a problem when trying to write in your cache folder",
            "permissionerror at {folder:path} when downloading",
        ),
        says(
            "This user may not write into Hugging Face's cache folder: another user (often root, or a container) made it, or "
            "it cannot be written to.",
            "See whose it is: ls -ld ~/.cache/huggingface ~/.cache/huggingface/hub ~/.cache/huggingface/xet",
            "Make it yours: sudo chown -R $USER ~/.cache/huggingface; or name another folder: export HF_HOME=/path/with/space",
            "In a container: mount a folder that its user may write to: -v ~/.cache/huggingface:/root/.cache/huggingface",
            instead="puna keeps models in the folder that PUNA_CACHE names.",
        ),
        ("+huggingface|cache folder", "+permission|read-only|not writable|denied"),
    ),
    Cause(
        "hub-symlinks",
        "hub",
        (
            "your machine does not support them in",
            "[winerror 1314]",
            "cache-system uses symlinks by default",
        ),
        says(
            "Windows lets only administrators and developers make symbolic links, which the Hub's cache uses. Files are copied "
            "instead and take more room; some programs fail with WinError 1314.",
            "Settings, System, For developers: switch Developer Mode on; then start the program again.",
            "Or download into a folder, without the cache: hf download OWNER/REPO --local-dir FOLDER",
            instead="puna's cache needs no links.",
        ),
        ("+symlink|1314|symbolic link", "+windows|huggingface|cache"),
        role="symptom",
    ),
)
