"""What every sink must keep, as tests: ours pass them, and those of other packages can too.

Write a `Stand`, which knows the real thing behind the sink, and derive the tests from the suite:

    class TestMySink(SinkContract):
        @pytest.fixture
        async def stand(self) -> AsyncIterator[Stand]:
            async with MyStand() as stand:
                yield stand

They are run by pytest with anyio's own plugin. What the real thing cannot be made to do in a test
is left out of the stand, and the tests that need it are skipped and say so.
"""

from .contract import SinkContract, deliver, delivered
from .stand import PlainRecord, Stand, batch_of, read

__all__ = ["PlainRecord", "SinkContract", "Stand", "batch_of", "deliver", "delivered", "read"]
