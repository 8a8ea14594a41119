-- forget_readers
SELECT defender.forget_readers()
