"""The ways to run or reach a model, all behind `manta.protocols.ChatModel`."""
