-- forget_deletions
SELECT defender.forget_deletions()
