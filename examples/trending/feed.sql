INSERT INTO item_views (item, user_id, ts, key)
SELECT item, user_id, ts, user_id FROM script
WHERE arrival >= :'from' AND arrival < :'to' ORDER BY arrival;
