-- summarise
SELECT defender.summarise($1)
