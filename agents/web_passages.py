from typing import Any
class WebReader:
    def __init__(self, settings: Any) -> None: ...
    async def find(self, context: Any, question: str) -> list[Any]: raise NotImplementedError
    def tools(self) -> list[Any]: return []
