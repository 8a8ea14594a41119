-- continue_feed
SELECT defender.continue_feed()
