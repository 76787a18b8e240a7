INSERT INTO clicks (user_id, page, ts, key)
SELECT user_id, page, ts, user_id FROM script
WHERE arrival >= :'from' AND arrival < :'to' ORDER BY arrival;
