"""Tenants, block by block: who is charged for a block, and who gives when there is no room."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from kvcore import RequestInfo, TenantQuota
from models.block import Block
from models.policies import Leaf, PolicyModel

PARTS = 1 << 20  # of a block; what cannot be divided is charged to the first of its users


class Account:
    def __init__(self, quota: TenantQuota, num_blocks: int) -> None:
        self.guarantee = round(quota.guarantee * num_blocks * PARTS)
        self.ceiling = round(quota.ceiling * num_blocks * PARTS)
        self.weight = quota.weight
        self.used = 0
        self.evicted = 0


class TenantsModel:
    """One policy a tenant; has the contract of ``models.policies``, and `begin` and `room`.

    A block has users, charged in equal parts, and stands in the order of the last of them.
    """

    def __init__(
        self,
        make_policy: Callable[[int], PolicyModel],
        num_blocks: int,
        quotas: Mapping[str, TenantQuota],
    ) -> None:
        self.num_blocks = num_blocks
        names = sorted({"", *quotas}, key=str.encode)
        self.index = {name: index for index, name in enumerate(names)}
        self.accounts = [Account(quotas.get(name, TenantQuota()), num_blocks) for name in names]
        self.orders = [make_policy(num_blocks) for _ in names]
        self.users: dict[Block, set[int]] = {}
        self.owner: dict[Block, int] = {}
        self.asking = 0
        self.wanted = 0

    def tenant_of(self, request: Hashable) -> int:
        name = request.tenant if isinstance(request, RequestInfo) else ""
        return self.index.get(name, 0)

    def begin(self, request: Hashable, wanted: int, found: Sequence[Block]) -> None:
        self.asking = self.tenant_of(request)
        self.wanted = wanted
        if any(self.owner[block] != self.asking for block in found):
            self.touch(found, request)

    def room(self) -> int:
        account = self.accounts[self.asking]
        return max(0, account.ceiling - account.used) // PARTS

    # --- Charges ---

    def set_users(self, block: Block, users: set[int]) -> None:
        for sign, among in ((-1, self.users.get(block, set())), (1, users)):
            for user in among:
                rest = PARTS % len(among) if user == min(among) else 0
                self.accounts[user].used += sign * (PARTS // len(among) + rest)
        if users:
            self.users[block] = users
        else:
            self.users.pop(block, None)

    def take_over(self, path: Sequence[Block], tenant: int) -> None:
        for block in reversed(path):
            if self.owner[block] != tenant:
                self.orders[self.owner[block]].drop(block)
        for block in path:
            if self.owner[block] != tenant:
                self.owner[block] = tenant
                self.orders[tenant].enter(block, None)
            self.set_users(block, self.users[block] | {tenant})

    # --- The contract of a policy ---

    def remember(self, missing: Sequence[bytes], request: Hashable) -> None:
        self.orders[self.asking].remember(missing, request)

    def enter(self, block: Block, position: int | None) -> None:
        self.owner[block] = self.asking
        self.set_users(block, {self.asking})
        self.orders[self.asking].enter(block, position)

    def touch(self, path: Sequence[Block], request: Hashable) -> None:
        tenant = self.tenant_of(request)
        self.take_over(path, tenant)
        self.orders[tenant].touch(path, request)

    def finish(self, request: Hashable, output_tokens: int) -> None:
        self.orders[self.tenant_of(request)].finish(request, output_tokens)

    def evict(self, block: Block) -> None:
        self.accounts[self.owner[block]].evicted += 1
        self.orders[self.owner[block]].evict(block)
        self._leave(block)

    def drop(self, block: Block) -> None:
        self.orders[self.owner[block]].drop(block)
        self._leave(block)

    def _leave(self, block: Block) -> None:
        self.set_users(block, set())
        del self.owner[block]

    def victim(self, leaf: Leaf) -> Block | None:
        givers = list(range(len(self.accounts)))
        while True:
            free = self.num_blocks - len(self.owner)
            above_ceiling = self.room() < self.wanted
            ranked = sorted((giver for giver in givers if self.excess(giver) > 0), key=self.rank)
            if self.wanted <= min(free, self.room()):
                return None  # it wants less by now
            if not above_ceiling and not ranked:
                return None
            giver = self.asking if above_ceiling else ranked[0]
            block = self.orders[giver].victim(leaf)
            if block is not None:
                if not self.pass_on(block, giver, crowded=free < self.wanted):
                    return block
            elif giver != self.asking:
                givers.remove(giver)
            elif above_ceiling:
                self.wanted -= 1
            elif len(ranked) == 1:
                return None
            else:
                self.wanted -= 1

    def excess(self, tenant: int) -> float:
        account = self.accounts[tenant]
        wanted = self.wanted * PARTS if tenant == self.asking else 0
        return max(0, account.used + wanted - account.guarantee) / account.weight

    def rank(self, tenant: int) -> tuple[float, bool, int]:
        """The first gives."""
        return -self.excess(tenant), tenant != self.asking, tenant

    def pass_on(self, block: Block, giver: int, crowded: bool) -> bool:
        def keeps(tenant: int) -> bool:
            account = self.accounts[tenant]
            return account.used <= (account.guarantee if crowded else account.ceiling)

        keepers = sorted(user for user in self.users[block] - {giver} if keeps(user))
        if not keepers:
            return False
        keeper = keepers[0]
        path: list[Block] = []
        at: Block | None = block
        while at is not None:
            if at in self.owner:  # else vacant, or the root
                path.insert(0, at)
            at = at.parent
        for above in path:
            if self.owner[above] == giver:
                self.set_users(above, (self.users[above] | {keeper}) - {giver})
        self.take_over(path, keeper)
        self.orders[keeper].touch(path, NOBODY)
        return True


NOBODY = object()  # whose use passing on is
