-- The whole schema of the node's database. Applied once to an empty database; later changes come as
-- numbered forward steps. Amounts are integers in the smallest unit of their asset.

-- ledger: begin
CREATE TABLE ledger_accounts (
    id uuid PRIMARY KEY
);
-- ledger: end
