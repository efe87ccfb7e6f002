# freqtrade's own image with MtfScalper RL in it. What to run: docs/live.md.
FROM freqtradeorg/freqtrade:2026.9

COPY --chown=ftuser:ftuser pyproject.toml constraints.txt README.md LICENSE /freqtrade/mtf-scalper/
COPY --chown=ftuser:ftuser src /freqtrade/mtf-scalper/src
COPY --chown=ftuser:ftuser configs /freqtrade/mtf-scalper/configs
COPY --chown=ftuser:ftuser user_data/strategies /freqtrade/mtf-scalper/user_data/strategies
COPY --chown=ftuser:ftuser user_data/freqaimodels /freqtrade/mtf-scalper/user_data/freqaimodels

# torch first, for its build can be chosen: PIP_EXTRA_INDEX_URL names PyTorch's index for the CPU.
ARG PIP_EXTRA_INDEX_URL=
RUN cd /freqtrade/mtf-scalper \
 && pip install --user --no-cache-dir -c constraints.txt torch \
 && pip install --user --no-cache-dir -c constraints.txt ".[freqtrade]"

# The project's folder, with configs/ and user_data/, is mounted here.
WORKDIR /project
